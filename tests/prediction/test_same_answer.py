"""One picture, one answer: through the run, through every artefact, as pixels and as encoded bytes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import encode
from PIL import Image

from cifar_trainer.export.formats import FORMATS
from cifar_trainer.prediction.artefact import open_artefact
from cifar_trainer.prediction.pictures import decode_picture, encode_png

RunCli = Callable[..., subprocess.CompletedProcess[str]]

#: The least share of pictures with the run's top class, and how much likelier than the next one the run
#: must find it for a picture to count. Only int8 may differ, and only where the run itself is undecided.
EXACT = (1.0, 0.0)
BOUNDS = {"litert-int8": (0.99, 0.05)}


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A folder with the first 100 test images as PNG files."""
    folder = tmp_path_factory.mktemp("hundred")
    images = np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")
    for i in range(100):
        Image.fromarray(images[i]).save(folder / f"{i:03d}.png")
    return folder


def two_likeliest(run_cli: RunCli, *arguments: object) -> dict[str, list[dict[str, Any]]]:
    done = run_cli(["predict", "--json", "--top", 2, *arguments])
    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)["predictions"]
    assert len(predictions) == 100
    return {each["image"]: each["top"] for each in predictions}


@pytest.fixture(scope="module")
def of_the_run(run_cli: RunCli, learned_run: Path, hundred: Path) -> dict[str, list[dict[str, Any]]]:
    answers = two_likeliest(run_cli, "--run", learned_run, hundred)
    assert len({first["class"] for first, _ in answers.values()}) >= 8, "it says the same of everything"
    return answers


@pytest.mark.parametrize("name", FORMATS)
def test_every_artefact_gives_the_runs_top_classes(
    run_cli: RunCli,
    artefacts: dict[str, Path],
    hundred: Path,
    of_the_run: dict[str, list[dict[str, Any]]],
    name: str,
) -> None:
    if name not in artefacts:
        pytest.skip(f"the packages for {name} are not installed")
    share, lead = BOUNDS.get(name, EXACT)
    given = two_likeliest(run_cli, "--model", artefacts[name], hundred)
    same = [
        given[image][0]["class"] == first["class"]
        for image, (first, second) in of_the_run.items()
        if first["probability"] - second["probability"] >= lead
    ]
    assert len(same) >= 50
    assert sum(same) >= share * len(same)


def wave(height: int, width: int, *channels: int) -> np.ndarray:
    """A picture that is smooth in all channels, as photographs are."""
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    planes = [np.sin(7 * x + 5 * y * (k + 1) + k) for k in channels]
    return ((np.stack(planes, axis=-1) + 1) * 127.5).round().astype(np.uint8)


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : complex(height), -1 : 1 : complex(width)]
    return (255 * np.clip(2 - 2 * (x**2 + y**2), 0, 1)).astype(np.uint8)[..., None]


PICTURES = {
    "PNG of 32x32": encode(Image.fromarray(wave(32, 32, 0, 1, 2)), "PNG"),
    "large PNG": encode(Image.fromarray(wave(300, 211, 0, 1, 2)), "PNG"),
    "small PNG": encode(Image.fromarray(wave(9, 17, 0, 1, 2)), "PNG"),
    "large JPEG": encode(Image.fromarray(wave(413, 600, 0, 1, 2)), "JPEG", quality=90),
    "grey JPEG": encode(Image.fromarray(wave(64, 99, 0)[..., 0]), "JPEG"),
    "CMYK JPEG": encode(Image.fromarray(wave(64, 99, 0, 1, 2, 3), "CMYK"), "JPEG"),
    "grey PNG": encode(Image.fromarray(wave(64, 99, 0)[..., 0]), "PNG"),
    "PNG of 16 bits": encode(Image.fromarray(wave(64, 99, 0)[..., 0].astype(np.uint16) * 257), "PNG"),
    "palette PNG": encode(Image.fromarray(wave(64, 99, 0, 1, 2)).quantize(), "PNG"),
    "PNG with alpha": encode(Image.fromarray(np.dstack([wave(99, 64, 0, 1, 2), ellipse(99, 64)])), "PNG"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_decoded_in_the_graph_has_the_same_pixels(name: str) -> None:
    """At most one level of 255 apart, as both round, each its own sums; CMYK is rounded twice."""
    import tensorflow as tf

    from cifar_trainer.export.encoded_pictures import decode_pictures

    inside = decode_pictures(tf.constant([PICTURES[name]])).numpy()[0]
    outside = decode_picture(PICTURES[name]).pixels
    assert np.abs(inside.astype(int) - outside).max() <= (2 if "CMYK" in name else 1)
    if name == "PNG of 32x32":
        np.testing.assert_array_equal(inside, outside)


def test_encoded_bytes_give_the_answer_of_the_array(artefacts: dict[str, Path], data_dir: Path) -> None:
    from cifar_trainer.prediction.saved_model import SavedModel

    served = open_artefact(artefacts["saved_model"])
    assert isinstance(served, SavedModel)
    images = np.load(data_dir / "synthetic" / "test_images.npy")[:100]
    by_array = served.predict(images)
    by_bytes = served.predict_bytes([encode_png(image) for image in images])
    np.testing.assert_allclose(by_bytes.logits, by_array.logits, rtol=0, atol=1e-5)
    assert by_bytes.class_name == by_array.class_name
    # Larger JPEGs of the same images: other pixels, and still the same ones for both.
    large = [Image.fromarray(image).resize((500, 300), Image.Resampling.BICUBIC) for image in images[:20]]
    encoded = [encode(image, "JPEG", quality=90) for image in large]
    by_array = served.predict(np.stack([decode_picture(each).pixels for each in encoded]))
    by_bytes = served.predict_bytes(encoded)
    np.testing.assert_allclose(by_bytes.probabilities, by_array.probabilities, rtol=0, atol=0.02)
    assert by_bytes.class_name == by_array.class_name


def test_the_saved_model_works_with_tensorflows_own_command(
    artefacts: dict[str, Path], data_dir: Path, tmp_path: Path
) -> None:
    script = Path(sys.executable).with_name("saved_model_cli")
    command = (
        [script] if script.is_file() else [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    )
    model = artefacts["saved_model"]

    def run(*arguments: object) -> str:
        done = subprocess.run(
            [*map(str, command), *map(str, arguments)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = run("show", "--all", "--dir", model)
    assert "signature_def['serving_default']" in shown
    assert "signature_def['serving_bytes']" in shown
    for part in ("inputs['images']", "dtype: DT_UINT8", "shape: (-1, 32, 32, 3)", "inputs['image_bytes']"):
        assert part in shown
    for output in ("logits", "probabilities", "class_id", "class_name"):
        assert shown.count(f"outputs['{output}']") >= 2

    images = np.load(data_dir / "synthetic" / "test_images.npy")[:3]
    np.save(tmp_path / "images.npy", images)
    run(
        "run", "--dir", model, "--tag_set", "serve", "--signature_def", "serving_default",
        "--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", tmp_path / "out",
    )  # fmt: skip
    expected = open_artefact(model).predict(images)
    np.testing.assert_allclose(np.load(tmp_path / "out" / "logits.npy"), expected.logits, atol=1e-5)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "class_id.npy"), expected.class_id)
