"""Exports take size, channels and classes from the model: here 28x28 grey images of three classes."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from cifar_trainer.artefacts import export
from cifar_trainer.artefacts.formats import Artefact, open_artefact
from cifar_trainer.artefacts.gate import KINDS
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.store import load_dataset
from cifar_trainer.images import Preprocessing, encode_png
from cifar_trainer.prediction import PredictionReport, predict
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.run import Run

SHAPE = (28, 28, 1)
CLASSES = ("boot", "coat", "dress")
#: One format for each runtime; LiteRT's is tried where it is installed.
FORMATS = ("saved_model", "keras", "onnx")


def draw(count: int) -> Split:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
    return Split(images, generator.integers(0, 3, count).astype(np.uint8), "0" * 64)


@pytest.fixture(scope="module")
def small_run(
    trained_run: Path, tmp_path_factory: pytest.TempPathFactory, replace_model: Callable[..., None]
) -> Path:
    """A run whose model takes 28x28 grey images and knows three classes."""
    run = tmp_path_factory.mktemp("small") / "run"
    shutil.copytree(trained_run, run)
    keras.utils.set_random_seed(0)
    replace_model(run, TUTORIAL.build_model(SHAPE, len(CLASSES)))
    config = json.loads((run / "config.json").read_text())
    config["data"].update(classes=CLASSES, preprocessing={"image_shape": SHAPE, "resize": "stretch"})
    (run / "config.json").write_text(json.dumps(config))
    return run


@pytest.fixture(scope="module")
def exported(small_run: Path, data_dir: Path) -> dict[str, Path]:
    """Its artefacts by format; each has passed the gate."""
    pytest.importorskip("tf2onnx")
    dataset = dataclasses.replace(
        load_dataset(data_dir, "synthetic"), classes=CLASSES, train=draw(1200), test=draw(120)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "load_data", lambda run, data_dir: dataset)
        patch.setattr(export, "FILES", len(KINDS))
        report = export.export(small_run, format=FORMATS)
    return {each.format: Path(each.path) for each in report.exports}


@pytest.fixture(scope="module")
def opened(exported: dict[str, Path]) -> dict[str, Artefact]:
    return {name: open_artefact(path) for name, path in exported.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_an_artefact_tells_the_shape_of_its_images(opened: dict[str, Artefact], name: str) -> None:
    assert tuple(opened[name].image_shape) == SHAPE


@pytest.mark.parametrize("name", FORMATS)
def test_an_artefact_has_the_names_of_its_classes(opened: dict[str, Artefact], name: str) -> None:
    assert opened[name].classes == CLASSES


@pytest.mark.parametrize("name", FORMATS)
def test_an_artefacts_class_ids_are_int64(opened: dict[str, Artefact], name: str) -> None:
    assert opened[name].predict(draw(5).images).class_id.dtype == np.int64


def test_the_manifest_has_the_models_input(exported: dict[str, Path]) -> None:
    manifest = json.loads((exported["keras"].parent / "manifest.json").read_text())
    assert manifest["input"] == {
        "name": "images",
        "dtype": "uint8",
        "shape": [None, 28, 28, 1],
        "layout": "NHWC, grey",
    }


def test_the_model_card_has_the_models_input(exported: dict[str, Path]) -> None:
    card = (exported["keras"].parent / "model_card.md").read_text()
    assert "A classifier of 28×28 greyscale images into 3 classes" in card


def test_a_saved_model_makes_encoded_images_grey_as_predict_does(opened: dict[str, Artefact]) -> None:
    colour = encode_png(np.random.default_rng(1).integers(0, 256, (28, 28, 3)).astype(np.uint8))
    by_bytes = opened["saved_model"].predict_bytes([colour])  # type: ignore[attr-defined]
    by_pixels = opened["saved_model"].predict(Preprocessing(SHAPE).decode(colour).pixels[None])
    np.testing.assert_allclose(by_bytes.logits, by_pixels.logits, rtol=0, atol=1e-5)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(2).integers(0, 256, (90, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def likeliest(report: PredictionReport) -> list[tuple[str, float]]:
    (answer,) = report.predictions
    return [(guess.class_name, guess.probability) for guess in answer.guesses]


def test_predict_gives_at_most_all_of_its_classes(small_run: Path, photo: Path) -> None:
    assert {name for name, _ in likeliest(predict(photo, run=small_run))} == set(CLASSES)


@pytest.mark.parametrize("name", FORMATS)
def test_predict_says_the_same_by_the_run_and_by_an_artefact(
    small_run: Path, exported: dict[str, Path], photo: Path, name: str
) -> None:
    by_run = likeliest(predict(photo, run=small_run, top=1))
    assert likeliest(predict(photo, model=exported[name], top=1)) == [
        (by_run[0][0], pytest.approx(by_run[0][1], abs=1e-4))
    ]
