"""Explain predictions: Grad-CAM, occlusion, and the nearest training images."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cifar_trainer import files, pages
from cifar_trainer.artefacts.source import Source
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.splits import split_for
from cifar_trainer.errors import UsageError, printable
from cifar_trainer.images import encode_png
from cifar_trainer.prediction import Answer, Classifier, ImageSource, PredictionReport, list_images
from cifar_trainer.run import Run, open_run

if TYPE_CHECKING:
    import keras

    from cifar_trainer.artefacts.keras import KerasModel
    from cifar_trainer.evaluation.occlusion import Occlusion

#: Maximum number of images on a page, and number of nearest training images for each.
IMAGES, NEAREST = 100, 8
#: Training images between two calls of `on_progress`.
_STEP = 2500


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        index: position in the prepared training images.
        file: its name in the source; empty if the source had no names.
        label: its class.
        distance: cosine distance of the features, 0 for a copy.
    """

    index: int
    file: str
    label: str
    distance: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Explanation(Answer):
    """A prediction and its explanation.

    Attributes:
        pixels: the resized image, uint8 [H, W, C].
        grad_cam: the map from `GradCam`, float32 [H, W]; None if the network has no feature map.
        occlusion: how the prediction changes if a part is covered.
        nearest: the training images with the most similar features, nearest first.
    """

    pixels: np.ndarray
    grad_cam: np.ndarray | None
    occlusion: "Occlusion"
    nearest: tuple[Neighbour, ...]

    def to_json(self) -> dict[str, Any]:
        part = self.occlusion
        covered = {"box": part.box, "probability": part.probability, "class": part.class_name}
        nearest = [dataclasses.asdict(each) for each in self.nearest]
        return {**super().to_json(), "covered": covered, "nearest": nearest}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExplanationReport(PredictionReport):
    """A model's predictions for images, explained.

    Attributes:
        page: path of the page; None if no image could be read.
    """

    predictions: tuple[Explanation, ...]
    page: str | None

    def to_json(self) -> dict[str, Any]:
        """What `explain --json` prints."""
        return {**super().to_json(), "page": self.page}


def explain(
    images: ImageSource | Iterable[ImageSource],
    *,
    run: str | Path | None = None,
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    verbose: bool = False,
    on_progress: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> ExplanationReport:
    """Write a page that explains the predictions of a run's model. Computes on the CPU, as `predict` does.

    Args:
        images: as for `predict`, at most 100.
        run: the run's folder; by default, the newest run with a model.
        output: the page; by default, explanation.html in the run's folder. An existing file is replaced.
        data_dir: the data folder; by default, the one that the run used.
        verbose: show TensorFlow's own messages.
        on_progress: called with (name, done, total).

    Raises:
        UsageError: there are no images, or too many, or one of them is a run's folder.
        DataError: the run's data are missing or have changed.
        RunError: the run does not exist or is damaged, or the page cannot be written.
    """
    sources = list_images(images)
    opened = open_run(run, with_model=True)
    dataset = opened.load_data(data_dir)
    classifier = Classifier(Source(opened.model, opened, None), None, None, verbose)
    read = classifier.classify(sources, lambda done: on_progress("reading", done, None))
    found = list(itertools.islice(read, IMAGES + 1))
    if len(found) > IMAGES:
        raise UsageError(f"There are more than {IMAGES} images, the most that a page shows. Pass fewer.")
    if not found:
        return ExplanationReport(**vars(classifier.report(())), page=None)
    from cifar_trainer.evaluation.gradcam import GradCam
    from cifar_trainer.evaluation.occlusion import occlude

    artefact = cast("KerasModel", classifier.open())
    grad_cam = GradCam(artefact.model)
    pixels = np.stack([image.pixels for image, _ in found])
    nearest = _find_nearest(artefact.model, pixels, dataset, opened, on_progress)
    explanations: list[Explanation] = []
    for image, (_, answer), neighbours in zip(pixels, found, nearest, strict=True):
        label = answer.guesses[0].class_id
        maps = grad_cam(image[None], [label])
        explanation = Explanation(
            **vars(answer),
            pixels=image,
            grad_cam=None if maps is None else maps[0],
            occlusion=occlude(artefact.predict, image, label),
            nearest=neighbours,
        )
        explanations.append(explanation)
        on_progress("explaining", len(explanations), len(found))
    page = opened.path / "explanation.html" if output is None else Path(output).expanduser()
    report = ExplanationReport(**vars(classifier.report(tuple(explanations))), page=str(page))
    with files.writing(page, "Choose another --output."):
        files.write_text(page, _render(report, opened, dataset))
    return report


def _find_nearest(
    model: "keras.Model",
    images: np.ndarray,
    dataset: Dataset,
    run: Run,
    on_progress: Callable[[str, int, int], None],
) -> list[tuple[Neighbour, ...]]:
    """The run's training images with the nearest features, for each of uint8 [N, H, W, C]."""
    from cifar_trainer.checks.neighbours import unit
    from cifar_trainer.model import hidden_features

    trained, _ = split_for(dataset, run.read_config())
    train, features = dataset.train, hidden_features(model)
    queries, similar = unit(features(images)[:, :, None]), []
    for start in range(0, len(trained), _STEP):
        keys = unit(features(train.images[trained[start : start + _STEP]])[:, :, None])
        similar.append(queries @ keys.T)
        on_progress("comparing", min(start + _STEP, len(trained)), len(trained))
    distances = (1 - np.concatenate(similar, axis=1)).clip(0)

    def neighbour(index: int, distance: float) -> Neighbour:
        file = train.files[index] if train.files else ""
        return Neighbour(index, file, dataset.classes[train.labels[index]], distance)

    return [
        tuple(neighbour(int(trained[i]), float(row[i])) for i in np.argsort(row, kind="stable")[:NEAREST])
        for row in distances
    ]


def _render(report: ExplanationReport, run: Run, dataset: Dataset) -> str:
    from cifar_trainer.evaluation.figures import heat_overlay

    def picture(image: np.ndarray, heat: np.ndarray | None = None) -> str:
        drawn = image if heat is None else np.rint(heat_overlay(image, heat) * 255).astype(np.uint8)
        return pages.data_uri(encode_png(drawn))

    result = run.read_result()
    return pages.render(
        "cifar_trainer", "explanation.html.j2", {},
        report=report, train=dataset.train, picture=picture, printable=printable,
        provenance=[
            ("run", f"{run.path}: {result.recipe}, {result.epochs} epochs"),
            ("weights, SHA-256", result.weights_sha256),
            ("training images", f"{dataset.title}, {dataset.folder}"),
        ],
    )  # fmt: skip
