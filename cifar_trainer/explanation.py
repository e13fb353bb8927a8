"""Explain predictions: Grad-CAM, occlusion, and the nearest training images."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from cifar_trainer import files, pages
from cifar_trainer.artefacts.source import Source
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.splits import split_for
from cifar_trainer.errors import counted, printable
from cifar_trainer.images import encode_png
from cifar_trainer.prediction import Classifier, ImageSource, PredictionReport, list_images
from cifar_trainer.run import Run, open_run

if TYPE_CHECKING:
    import keras

    from cifar_trainer.artefacts.keras import KerasModel

#: Number of nearest training images for each image.
NEAREST = 8
#: Training images between two calls of `on_progress`.
_STEP = 2500


def explain(
    images: ImageSource | Iterable[ImageSource],
    *,
    run: str | Path | None = None,
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    verbose: bool = False,
    on_progress: Callable[[str, int, int | None], None] = lambda name, done, total: None,
) -> PredictionReport:
    """Write a page that explains the predictions of a run's model. Computes on the CPU, as `predict` does.

    Args:
        images: as for `predict`.
        run: the run's folder; by default, the newest run with a model.
        output: the page; by default, explanation.html in the run's folder. An existing file is replaced.
        data_dir: the data folder; by default, the one that the run used.
        verbose: show TensorFlow's own messages.
        on_progress: called with (name, done, total).

    Returns:
        The predictions, and the path of the page; None if no image could be read.

    Raises:
        UsageError: there are no images, or one of them is a run's folder.
        DataError: the run's data are missing or have changed.
        RunError: the run does not exist or is damaged, or the page cannot be written.
    """
    sources = list_images(images)
    opened = open_run(run, with_model=True)
    dataset = opened.load_data(data_dir)
    classifier = Classifier(Source(opened.model, opened, None), None, verbose)
    found = list(classifier.classify(sources, lambda done: on_progress("reading", done, None)))
    if not found:
        return classifier.report(())
    from cifar_trainer.evaluation.figures import heat_overlay
    from cifar_trainer.evaluation.gradcam import GradCam
    from cifar_trainer.evaluation.occlusion import occlude

    artefact = cast("KerasModel", classifier.open())
    grad_cam = GradCam(artefact.model)
    pixels = np.stack([image.pixels for image, _ in found])
    nearest = _find_nearest(artefact.model, pixels, dataset, opened, on_progress)
    explained = []
    for (image, answer), neighbours in zip(found, nearest, strict=True):
        label = answer.guesses[0].class_id
        maps = grad_cam(image.pixels[None], [label])
        lost = occlude(artefact.predict, image.pixels, label)
        explained.append((answer, image.pixels, None if maps is None else maps[0], lost, neighbours))
        on_progress("explaining", len(explained), len(found))
    page = opened.path / "explanation.html" if output is None else Path(output).expanduser()
    report = dataclasses.replace(classifier.report(tuple(answer for _, answer in found)), page=str(page))

    def picture(image: np.ndarray, heat: np.ndarray | None = None) -> str:
        drawn = image if heat is None else np.rint(heat_overlay(image, heat) * 255).astype(np.uint8)
        return pages.data_uri(encode_png(drawn))

    text = pages.render(
        "cifar_trainer", "explanation.html.j2", {},
        report=report, explained=explained, result=opened.read_result(), dataset=dataset, picture=picture,
        counted=counted, printable=printable,
    )  # fmt: skip
    with files.writing(page, "Choose another --output."):
        files.write_text(page, text)
    return report


def _find_nearest(
    model: "keras.Model",
    images: np.ndarray,
    dataset: Dataset,
    run: Run,
    on_progress: Callable[[str, int, int], None],
) -> Iterator[list[tuple[int, float]]]:
    """For each of uint8 [N, H, W, C], the run's training images with the nearest features, and distances."""
    from sklearn.neighbors import NearestNeighbors

    from cifar_trainer.model import hidden_features

    trained, _ = split_for(dataset, run.read_config())
    features, keys = hidden_features(model), []
    for start in range(0, len(trained), _STEP):
        keys.append(features(dataset.train.images[trained[start : start + _STEP]]))
        on_progress("comparing", min(start + _STEP, len(trained)), len(trained))
    search = NearestNeighbors(n_neighbors=min(NEAREST, len(trained)), metric="cosine")
    distances, found = search.fit(np.concatenate(keys)).kneighbors(features(images))
    for indices, row in zip(trained[found].tolist(), distances.tolist(), strict=True):
        yield list(zip(indices, row, strict=True))
