"""The pixels that training saw are those that every prediction sees."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode
from PIL import Image, ImageOps

from cifar_trainer import prediction
from cifar_trainer.artefacts.decoding import decode_images
from cifar_trainer.artefacts.formats import (
    FORMATS,
    Artefact,
    Predictions,
    open_artefact,
    softmax,
    write_artefact,
)
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.store import load_dataset
from cifar_trainer.evaluation.unfamiliar import other_kinds
from cifar_trainer.images import RESIZES, Preprocessing
from cifar_trainer.model import Network
from cifar_trainer.run import DataRecord, Run, SplitRecord, ValidationRecord
from cifar_trainer.serving.service import Service

SIDE = 28
SIZES = ((80, 40), (33, 100), (28, 28), (9, 17), (300, 211))


def wave(height: int, width: int, phase: int) -> np.ndarray:
    """An image without repetition, smooth as photographs are: uint8 [height, width, 3]."""
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    planes = [np.sin(7 * x + 5 * y * (k + 1) + k + phase) for k in range(3)]
    return ((np.stack(planes, axis=-1) + 1) * 127.5).round().astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of PNG and JPEG images of other shapes than the data set's."""
    root = tmp_path_factory.mktemp("source")
    folders = [root / split / name for split in ("train", "test") for name in ("cat", "dog")]
    for place, folder in enumerate(folders):
        folder.mkdir(parents=True)
        for number, size in enumerate(SIZES):
            image = Image.fromarray(wave(*size, phase=2 * place))
            image.save(folder / f"{number}.{'png' if number % 2 else 'jpg'}", quality=95)
    return root


class Recorder(Artefact):
    """Keeps the images that it is asked about."""

    format, classes = "recorder", ("cat", "dog")

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self.seen: list[np.ndarray] = []

    def predict(self, images: np.ndarray) -> Predictions:
        self.seen.extend(images)
        logits = np.zeros((len(images), 2), np.float32)
        return Predictions(logits, softmax(logits), logits.argmax(axis=1), ("cat",) * len(images))


def seen_by_predict(preprocessing: Preprocessing, files: list[Path]) -> np.ndarray:
    recorder: Any = Recorder(preprocessing)
    source: Any = SimpleNamespace(
        path=Path("m.onnx"),
        run=None,
        format=FORMATS["onnx"],
        open=lambda: recorder,
        read_thresholds=lambda: None,
        read_sets=lambda: None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "find_source", lambda *_: source)
        prediction.predict(files)
    return np.stack(recorder.seen)


async def in_place(function: Any, *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **options)


def seen_by_serve(preprocessing: Preprocessing, files: list[Path]) -> np.ndarray:
    service: Any = SimpleNamespace(
        model=SimpleNamespace(artefact=Recorder(preprocessing)), in_decoder=in_place
    )
    service.settings = SimpleNamespace(limits=SimpleNamespace(image_pixels=1_000_000))
    decoded = [asyncio.run(Service.decode(service, file.read_bytes())) for file in files]
    return np.stack([image.pixels for image in decoded])


def seen_by_evaluate(preprocessing: Preprocessing, files: list[Path]) -> np.ndarray:
    kinds = other_kinds("synthetic", preprocessing, files[0].parent)
    return kinds[f"images in {files[0].parent.name}"]


def seen_by_serving_bytes(preprocessing: Preprocessing, files: list[Path]) -> np.ndarray:
    contents = tf.constant([file.read_bytes() for file in files])
    decoded: np.ndarray = decode_images(contents, preprocessing).numpy()
    return decoded


@pytest.mark.parametrize("resize", RESIZES)
def test_predict_serve_evaluate_and_serving_bytes_see_the_pixels_of_training(
    source: Path, tmp_path: Path, resize: str
) -> None:
    prepare("own", tmp_path, source=str(source), size=SIDE, resize=resize)
    dataset = load_dataset(tmp_path, "own")
    trained = dataset.train.images[np.asarray(dataset.train.labels) == dataset.classes.index("cat")]
    files = sorted((source / "train" / "cat").iterdir())
    for see in (seen_by_predict, seen_by_serve, seen_by_evaluate, seen_by_serving_bytes):
        np.testing.assert_array_equal(see(dataset.preprocessing, files), trained, err_msg=see.__name__)


@pytest.mark.parametrize("name", FORMATS)
def test_every_artefact_has_the_preprocessing_of_its_network(tmp_path: Path, name: str) -> None:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    images = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    logits = keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images)))
    preprocessing = Preprocessing((SIDE, SIDE, 3), "crop")
    network = Network(keras.Model(images, logits), ("cat", "dog"), preprocessing)
    path = tmp_path / FORMATS[name].file_name
    if FORMATS[name].is_folder:
        path.mkdir()
    write_artefact(FORMATS[name], network, path, np.zeros((40, SIDE, SIDE, 3), np.uint8))
    assert open_artefact(path).preprocessing == preprocessing


def record(**preprocessing: Any) -> DataRecord:
    split = SplitRecord(10, "0" * 64, "0" * 64)
    names = {"name": "own", "title": "own", "verified": False, "classes": ("cat", "dog")}
    return DataRecord(
        **names, train=split, test=split, validation=ValidationRecord("test", 10), **preprocessing
    )


@pytest.mark.parametrize("resize", [*RESIZES, None])
def test_a_runs_model_has_the_preprocessing_of_its_data_and_an_old_runs_stretches(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, resize: str | None
) -> None:
    shape = (32, 32, 3)
    data = record(**({} if resize is None else {"preprocessing": Preprocessing(shape, resize)}))
    monkeypatch.setattr(Run, "read_data", lambda run: data)
    assert open_artefact(trained_run / "model.keras").preprocessing == Preprocessing(
        shape, resize or "stretch"
    )


def test_a_run_records_the_preprocessing_of_its_data(trained_run: Path) -> None:
    config = json.loads((trained_run / "config.json").read_text())
    assert config["data"]["preprocessing"] == {
        "image_shape": [32, 32, 3],
        "resize": "stretch",
        "grey_bits": None,
    }


def pillow(image: Image.Image, resize: str, side: int) -> np.ndarray:
    size, bilinear = (side, side), Image.Resampling.BILINEAR
    match resize:
        case "crop":
            return np.asarray(ImageOps.fit(image, size, bilinear))
        case "fit":
            return np.asarray(ImageOps.pad(image, size, bilinear, color="white"))
    return np.asarray(image.resize(size, bilinear))


@pytest.mark.parametrize("resize", RESIZES)
def test_images_are_resized_as_pillow_does(resize: str) -> None:
    """At most one level of 255 apart, as Pillow may take the columns first."""
    for height, width in (*SIZES, (64, 200), (101, 101)):
        image = Image.fromarray(wave(height, width, 0))
        resized = Preprocessing((32, 32, 3), resize).decode(encode(image, "PNG")).pixels
        assert np.abs(resized.astype(int) - pillow(image, resize, 32)).max() <= 1


def test_fit_leaves_at_least_one_pixel_of_a_very_long_image() -> None:
    pixels = Preprocessing((32, 32, 3), "fit").decode(encode(Image.new("RGB", (900, 2)), "PNG")).pixels
    assert (pixels == 0).all(axis=(1, 2)).sum() == 1
