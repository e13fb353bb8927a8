"""`explain`: its predictions are those of `predict`, and the nearest images are the nearest ones."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from browser import problems_on_screens
from command_line import run_here
from PIL import Image

from cifar_trainer import explain, explanation, predict
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import UsageError
from cifar_trainer.model import hidden_features, load_model
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import Run

#: A training image that the run has seen: its --limit is 2,000.
SEEN = 7


@pytest.fixture(scope="module")
def photos(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training image, a photo of another size, and a file that is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(np.load(data_dir / "synthetic" / "train_images.npy")[SEEN]).save(folder / "a.png")
    test = np.load(data_dir / "synthetic" / "test_images.npy")[0]
    Image.fromarray(test).resize((90, 60)).save(folder / "<b>.jpg")
    (folder / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def explained(
    learned_run: Path, data_dir: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """The finished command, and its page."""
    page = tmp_path_factory.mktemp("out") / "page.html"
    options = ["--data-dir", data_dir, "--output", page, "--json"]
    return run_here(["explain", learned_run, photos, *options]), page


def test_the_predictions_are_those_of_predict(
    explained: tuple[Any, Path], learned_run: Path, photos: Path
) -> None:
    done, page = explained
    assert done.exit_code == 1
    assert "1 of 3 images could not be read; the others are classified" in done.stderr
    told = json.loads(done.stdout)
    predicted = predict(photos, run=learned_run).to_json()
    ours = [{key: each[key] for key in predicted["predictions"][0]} for each in told["predictions"]]
    assert [each["image"] for each in ours] == [str(photos / "<b>.jpg"), str(photos / "a.png")]
    assert ours == predicted["predictions"]
    assert (told["errors"], told["passed_over"]) == (predicted["errors"], predicted["passed_over"])
    assert (told["model"], told["page"]) == (str(learned_run / "model.keras"), str(page))


def test_the_nearest_image_of_a_training_image_is_itself(learned_run: Path, data_dir: Path) -> None:
    dataset, run = load_dataset(data_dir, "synthetic"), Run(learned_run)
    images = np.array(dataset.train.images[SEEN : SEEN + 1])
    (nearest,) = explanation._find_nearest(load_model(run.model), images, dataset, run, lambda *_: None)
    indices, distances = zip(*nearest, strict=True)
    assert (indices[0], len(set(indices))) == (SEEN, explanation.NEAREST)
    assert list(distances) == sorted(distances)
    assert (distances[0] < 1e-5, distances[1] > 1e-5) == (True, True)


def test_the_page_needs_no_other_file_and_is_accessible(explained: tuple[Any, Path]) -> None:
    text = explained[1].read_text()
    assert text.count('<img src="data:image/png') == 2 * (3 + explanation.NEAREST)
    assert ('src="http' in text, "/<b>.jpg" in text, "&lt;b&gt;.jpg" in text) == (False, False, True)
    assert "Not available" not in text
    assert problems_on_screens(explained[1].as_uri()) == []


def test_own_grey_images_of_two_classes_and_a_network_without_feature_maps(
    trained_run: Path,
    data_dir: Path,
    tmp_path: Path,
    replace_model: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shape, classes = (28, 28, 1), ("dark", "bright")
    run = shutil.copytree(trained_run, tmp_path / "run")
    replace_model(run, keras.Sequential([keras.Input(shape, dtype="uint8"), keras.layers.Flatten(),
                                         keras.layers.Dense(2)]))  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    config["data"].update(classes=classes, preprocessing={"image_shape": shape, "resize": "fit"})
    (run / "config.json").write_text(json.dumps({**config, "limit": 5}))
    pixels = np.random.default_rng(0).integers(0, 256, (6, *shape), np.uint8)
    split = Split(pixels, np.arange(6, dtype=np.uint8) % 2, files=tuple(f"in/{i}.png" for i in range(6)))
    dataset = dataclasses.replace(load_dataset(data_dir, "synthetic"), classes=classes, train=split)
    monkeypatch.setattr(Run, "load_data", lambda run, data_dir: dataset)
    report = explain(pixels[5], run=run)
    (one,) = report.predictions
    assert len(one.guesses) == 2
    page = (run / "explanation.html").read_text()
    # The run was trained on five images; this one is the sixth.
    assert [page.count(f'title="in/{i}.png"') for i in range(6)] == [1, 1, 1, 1, 1, 0]
    assert re.findall(r"With the predicted class: (\d) of 5", page) == [
        str([2, 3][one.guesses[0].class_name == "dark"])
    ]
    assert "Not available: this network has no feature map" in page
    assert report.page == str(run / "explanation.html")


def test_the_page_tells_a_single_epoch_in_the_singular(
    learned_run: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = dataclasses.replace(Run(learned_run).read_result(), epochs=1)
    monkeypatch.setattr(Run, "read_result", lambda run: result)
    page = tmp_path / "page.html"
    explain(np.zeros((32, 32, 3), np.uint8), run=learned_run, data_dir=data_dir, output=page)
    assert ", 1 epoch<" in page.read_text()


def test_features_are_the_same_for_a_mirrored_image(tmp_path: Path) -> None:
    """Of a saved network, too, whose layers have more outputs than those of a new one."""
    TUTORIAL.build_model((28, 28, 1), 2).save(tmp_path / "model.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    found = hidden_features(load_model(tmp_path / "model.keras"))(
        np.concatenate([images, images[:, :, ::-1]])
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:3], found[3:], rtol=1e-4, atol=1e-4)
    assert np.ptp(found[:3], axis=0).max() > 0


def test_what_cannot_be_explained_is_one_message_and_no_page(
    learned_run: Path, data_dir: Path, photos: Path, tmp_path: Path
) -> None:
    page, data = tmp_path / "page.html", ["--data-dir", data_dir]
    for arguments, code, says in (
        ([photos / "absent.png", *data], 1, "1 of 1 images could not be read:"),
        ([learned_run, *data], 2, "is a run's folder, not an image"),
        ([photos / "a.png", "--data-dir", tmp_path], 3, "synthetic"),
    ):
        done = run_here(["explain", "--run", learned_run, "--output", page, *arguments])
        assert (done.exit_code, done.stdout) == (code, ""), done.output
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert not page.exists()
    with pytest.raises(UsageError, match="No image was given"):
        explain([], run=learned_run)
