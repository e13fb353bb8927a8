"""`cifar_trainer.predict` with a model of arithmetic: what it reads, and what it answers."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from image_files import encode, noise
from PIL import Image

from cifar_trainer import prediction
from cifar_trainer.artefacts.formats import FORMATS, Artefact, Predictions, softmax
from cifar_trainer.cli.predict import format_answer, format_failures
from cifar_trainer.conformal import Coverage
from cifar_trainer.errors import UsageError
from cifar_trainer.images import Preprocessing
from cifar_trainer.metrics import Thresholds
from cifar_trainer.prediction import Answer, Failure, Guess, PredictionReport, predict


class Brightness(Artefact):
    """Tells how much red, green or blue an image has."""

    format = "brightness"

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes, self.preprocessing = classes, Preprocessing((8, 8, 3))

    def predict(self, images: np.ndarray) -> Predictions:
        logits = images.mean(axis=(1, 2), dtype=np.float32)[:, : len(self.classes)] / 16
        ids = logits.argmax(axis=1)
        return Predictions(logits, softmax(logits), ids, tuple(self.classes[i] for i in ids))


class Opened:
    """Puts a model in the place of what `predict` finds; counts how often it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch, classes: tuple[str, ...], **parts: Any) -> None:
        self.times, self._classes = 0, classes
        source = {"path": Path("m.onnx"), "run": None, "format": FORMATS["onnx"], **parts}
        found = SimpleNamespace(**source, open=self._open)
        found.read_thresholds = parts.get("read_thresholds", lambda: None)

        def find_source(run: Any, model: Any, coverage: str | None) -> SimpleNamespace:
            found.read_sets = lambda: None if coverage is None else SETS.at(90)
            return found

        patch.setattr(prediction, "find_source", find_source)

    def _open(self) -> Brightness:
        self.times += 1
        return Brightness(self._classes)


RGB = ("red", "green", "blue")
SETS = Coverage(100, False, {"90": (0.4,)})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch, RGB)


def plain(colour: str, size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new("RGB", size, colour)


def likeliest(report: PredictionReport) -> list[str]:
    return [answer.guesses[0].class_name for answer in report.predictions]


def test_a_model_of_two_classes_gives_both_unless_a_number_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Opened(monkeypatch, ("cat", "dog"))
    (answer,) = predict(plain("red")).predictions
    assert [guess.class_name for guess in answer.guesses] == ["cat", "dog"]
    with pytest.raises(UsageError, match=r"--top 3 is out of range\. The model has 2 classes"):
        predict(plain("red"), top=3)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_as_many_classes_are_given_as_were_asked_for(opened: Opened, top: int) -> None:
    (answer,) = predict(plain("blue"), top=top).predictions
    assert [guess.class_name for guess in answer.guesses] == ["blue", "red", "green"][:top]


def test_arrays_and_pillow_images_are_classified_as_files_are(opened: Opened, tmp_path: Path) -> None:
    image = Image.fromarray(noise(30, 50))
    image.save(tmp_path / "a.png")
    pixels = np.asarray(image)
    report = predict([tmp_path / "a.png", image, pixels, np.stack([pixels, pixels])])
    names = [answer.name for answer in report.predictions]
    assert names == [str(tmp_path / "a.png"), "image 0", "image 1", "image 2", "image 3"]
    assert len({answer.guesses for answer in report.predictions}) == 1


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (8, 8, 4)])
def test_an_array_may_be_greyscale_rgb_or_rgba(opened: Opened, shape: tuple[int, ...]) -> None:
    assert len(predict(np.zeros(shape, np.uint8)).predictions) == 1


@pytest.mark.parametrize("shape", [(8,), (8, 8, 2), (2, 8, 8, 5), (0, 8, 8, 3)])
def test_an_array_of_another_shape_is_refused(opened: Opened, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"An array of shape .* was given\. Expected \[H, W\]"):
        predict(np.zeros(shape, np.uint8))


def test_an_array_of_fractions_is_refused_by_its_type(opened: Opened) -> None:
    (failure,) = predict(np.zeros((8, 8, 3), np.float32)).errors
    assert failure.reason == "its pixels are float32; expected uint8 from 0 to 255."


def test_a_pillow_image_is_turned_as_its_exif_orientation_says(opened: Opened) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = plain("red", (20, 10))
    image.getexif()[0x0112] = 6
    (answer,) = predict(image).predictions
    assert (answer.width, answer.height) == (20, 10)


def test_images_that_cannot_be_read_are_reported_before_a_model_is_opened(
    opened: Opened, tmp_path: Path
) -> None:
    report = predict([tmp_path / "ship.png", tmp_path / "absent.jpg"])
    assert opened.times == 0
    assert [failure.name for failure in report.errors] == [
        str(tmp_path / "ship.png"),
        str(tmp_path / "absent.jpg"),
    ]
    message = format_failures(report)
    assert message.startswith("2 of 2 images could not be read:\n")
    assert "No such file" in message


def test_eight_images_that_cannot_be_read_are_named_and_the_others_counted() -> None:
    failures = tuple(Failure(f"{i:02}.png", "it is empty.") for i in range(20))
    first, *named, last = format_failures(PredictionReport("m", "onnx", None, (), failures, {})).splitlines()
    assert first == "20 of 20 images could not be read:"
    assert named == [f"  {i:02}.png: it is empty." for i in range(8)]
    assert last == "  and 12 more; --json lists them all."


def test_a_run_and_an_artefact_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="Pass only one"):
        predict("a.png", run="runs/x", model="m.onnx")


def test_a_model_is_opened_once(opened: Opened) -> None:
    images = [plain(colour) for colour in ("red", "lime", "blue") for _ in range(50)]
    assert likeliest(predict(images)) == [name for name in RGB for _ in range(50)]
    assert opened.times == 1


def test_a_fifo_in_a_folder_is_not_waited_for(opened: Opened, tmp_path: Path) -> None:
    plain("lime").save(tmp_path / "b.png")
    os.mkfifo(tmp_path / "a.png")
    report = predict(tmp_path)
    assert likeliest(report) == ["green"]
    assert report.passed_over == {"file that is not an image": 1}


def test_progress_counts_each_image_once(opened: Opened, tmp_path: Path) -> None:
    seen: list[int] = []
    predict([plain("red"), tmp_path / "absent", plain("red")], on_progress=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("energy", "flag"), [(-1e9, True), (1e9, False)])
def test_an_image_beyond_the_threshold_is_unfamiliar(
    monkeypatch: pytest.MonkeyPatch, energy: float, flag: bool
) -> None:
    Opened(monkeypatch, RGB, read_thresholds=lambda: Thresholds(energy, 0.5))
    assert [answer.unfamiliar for answer in predict(plain("red")).predictions] == [flag]


def test_without_a_threshold_nothing_is_called_familiar_or_unfamiliar(opened: Opened) -> None:
    assert predict(plain("red")).predictions[0].unfamiliar is None


def test_with_a_coverage_each_answer_has_its_set_and_without_one_nothing_changes(opened: Opened) -> None:
    images = [plain(colour) for colour in ("red", "yellow", "black")]
    report = predict(images, coverage="90%")
    assert [answer.class_set for answer in report.predictions] == [("red",), ("red", "green"), ()]
    printed = report.to_json()
    assert [each["set"] for each in printed["predictions"]] == [["red"], ["red", "green"], []]
    assert printed["coverage"] == 0.9
    header, *rows = report.to_csv().splitlines()
    assert header == "file,predicted,probability,margin,unfamiliar,set"
    assert [row.rpartition(",")[2] for row in rows] == ["red", "red|green", ""]
    lines = [format_answer(answer, report.coverage) for answer in report.predictions]
    assert lines[1].endswith("(90% coverage: red or green)")
    assert lines[2].endswith("(90% coverage: unknown)")
    plain_report = predict(images)
    assert "coverage" not in plain_report.to_json()
    assert "set" not in plain_report.predictions[0].to_json()
    assert "set" not in plain_report.to_csv()


def test_an_unfamiliar_image_is_marked_on_its_line() -> None:
    answer = Answer("x.png", (Guess("cat", 3, 0.9),), "PNG", "RGB", 32, 32, True, 0.8)
    assert format_answer(answer) == "x.png: cat 90.0%  (unlike the training images)"


def test_a_photo_with_a_second_view_is_a_jpeg(opened: Opened, tmp_path: Path) -> None:
    """Some cameras write MPO: a JPEG with a preview behind it."""
    views = {"save_all": True, "append_images": [plain("blue")]}
    (tmp_path / "photo.jpg").write_bytes(encode(plain("red"), "MPO", **views))
    (answer,) = predict(tmp_path / "photo.jpg").predictions
    assert answer.format == "JPEG"
    assert "despite its name" not in format_answer(answer)
