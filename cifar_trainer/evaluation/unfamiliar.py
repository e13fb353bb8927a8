"""How well a model's scores distinguish familiar images from other kinds of images.

There are two scores: the energy (Liu et al. 2020) and the largest softmax probability
(Hendrycks & Gimpel 2017). They depend on the logits alone, so they miss images that merely
resemble a class, and images that were changed to deceive the model.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sklearn.metrics
from PIL import Image

from cifar_trainer.data.store import load_dataset
from cifar_trainer.data.synthetic import draw_dataset
from cifar_trainer.errors import DataError, printable
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.images import ImageError, Preprocessing, is_image, is_leftover
from cifar_trainer.metrics import Thresholds, energy, fit_thresholds, max_probability

#: Maximum number of images of each kind.
IMAGES = 2000
SEED = 0
NOISE = "noise"


@dataclasses.dataclass(frozen=True)
class Detection:
    """How well one score distinguishes other kinds of images from those of the split.

    Attributes:
        auroc: probability that an image of the split looks more familiar than one of another kind; 0.5 is
            chance.
        fpr95: share of the images of other kinds that pass when 95 % of the split's images pass.
    """

    auroc: float
    fpr95: float


@dataclasses.dataclass(frozen=True)
class OtherKind:
    """Images of another kind, and how well the scores detect them.

    Attributes:
        flagged: share whose energy is above the threshold.
        energy, probability: results of each score.
    """

    name: str
    images: int
    flagged: float
    energy: Detection
    probability: Detection

    @property
    def worse_than_chance(self) -> bool:
        """Whether these images look more familiar than the split's."""
        return self.energy.auroc < 0.5


@dataclasses.dataclass(frozen=True)
class Unfamiliar:
    """Whether a model recognizes images that it was not trained on.

    Attributes:
        thresholds: images beyond them are called unfamiliar.
        usable: whether `predict` and `serve` use the thresholds. They do not if images of another kind, such
            as noise, look more familiar to the model than the split's images.
        fitted_on: `validation`, the held-out training images, or `train` if the run held none out.
        fitted_images: number of images that the thresholds were fitted on.
        flagged: share of the split's images whose energy is above the threshold.
        kinds: the other kinds of images.
    """

    thresholds: Thresholds
    usable: bool
    fitted_on: str
    fitted_images: int
    flagged: float
    kinds: tuple[OtherKind, ...]


def measure_unfamiliar(
    subject: Subject, others: dict[str, np.ndarray]
) -> tuple[Unfamiliar, dict[str, np.ndarray]]:
    """Fit the thresholds, and measure the scores against images of other kinds.

    Args:
        subject: the model and the split.
        others: uint8 [N, H, W, C] by name, in the model's shape.

    Returns:
        The measurements, and the energies by name for the figure, the split's first.
    """
    thresholds = fit_thresholds(subject.familiar)
    energies = {f"{subject.split_name} images": energy(subject.logits)}
    kinds = []
    for name, images in others.items():
        logits = subject.predict_logits(images)
        energies[name] = energy(logits)
        kinds.append(
            OtherKind(
                name=name,
                images=len(images),
                flagged=float(thresholds.is_unfamiliar(logits).mean()),
                energy=_detection(-energy(subject.logits), -energies[name]),
                probability=_detection(max_probability(subject.logits), max_probability(logits)),
            )
        )
    return Unfamiliar(
        thresholds=thresholds,
        usable=not any(kind.worse_than_chance for kind in kinds),
        fitted_on="train" if subject.held_out is None else "validation",
        fitted_images=len(subject.familiar),
        flagged=float(thresholds.is_unfamiliar(subject.logits).mean()),
        kinds=tuple(kinds),
    ), energies


def _detection(familiar: np.ndarray, other: np.ndarray) -> Detection:
    """Compare scores of familiar and other images, float [N] and [M]; higher means more familiar."""
    truth = np.repeat([1, 0], (len(familiar), len(other)))
    auroc = sklearn.metrics.roc_auc_score(truth, np.concatenate([familiar, other]))
    passes = np.quantile(familiar, 0.05, method="lower")
    return Detection(float(auroc), float((other >= passes).mean()))


def other_kinds(dataset_name: str, preprocessing: Preprocessing, path: Path | None) -> dict[str, np.ndarray]:
    """Images that a model was not trained on: drawn shapes, noise, and those in `path`.

    Args:
        dataset_name: the training data; for `synthetic`, the drawn shapes are left out.
        preprocessing: the model's.
        path: a prepared data set, whose test images are used, or a folder of image files.

    Returns:
        uint8 [N, H, W, C] by name.

    Raises:
        DataError: `path` has no images, or one cannot be read.
    """
    kinds = {}
    if dataset_name != "synthetic":
        kinds["drawn shapes"] = _reshaped(draw_dataset().splits["test"].images[:IMAGES], preprocessing)
    shape = (IMAGES, *preprocessing.image_shape)
    kinds[NOISE] = np.random.default_rng(SEED).integers(0, 256, shape, np.uint8)
    if path is not None:
        # A folder called `noise` must not replace the kind `noise`.
        kinds[f"images in {printable(path.resolve().name)}"] = _read(path, preprocessing)
    return kinds


def _read(path: Path, preprocessing: Preprocessing) -> np.ndarray:
    if (path / "dataset.json").is_file():
        return _reshaped(load_dataset(path.parent, path.name).test.images[:IMAGES], preprocessing)
    try:
        files = sorted(_image_files(path))
    except OSError as error:
        raise DataError(f"--unfamiliar: {error.filename} cannot be read: {error.strerror}.") from error
    if not files:
        raise DataError(
            f"--unfamiliar {path} has no images. Expected a folder of images or a prepared data set."
        )
    # Sample from all folders: each may hold one class.
    chosen = np.random.default_rng(SEED).permutation(len(files))[:IMAGES]
    decoded = []
    for file in (files[i] for i in sorted(chosen)):
        try:
            decoded.append(preprocessing.decode(file.read_bytes()).pixels)
        except (ImageError, OSError) as error:
            raise DataError(f"--unfamiliar: {file} cannot be used: {error}") from error
    return np.stack(decoded)


def _image_files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not is_leftover(file.relative_to(folder).as_posix()):
            with open(file, "rb") as opened:
                if is_image(opened.read(16)):
                    yield file


def _reshaped(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Convert uint8 [N, H, W, C] to the model's input."""
    if images.shape[1:] == preprocessing.image_shape:
        return np.asarray(images)
    drawn = (Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3))) for image in images)
    return np.stack([preprocessing.convert(image) for image in drawn])
