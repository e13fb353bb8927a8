"""Findings about a data set that need no model: classes, colours, brightness."""

import dataclasses

import numpy as np

from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.errors import counted

#: A class with fewer training images is too small to learn, or to be checked for wrong labels.
FEW_IMAGES = 50
#: The largest class may have this many times as many training images as the smallest.
IMBALANCE = 10
#: Standard deviation of an image's pixels, 0 to 255, below which it is nearly one colour.
ONE_COLOUR = 4.0
#: Difference of the splits' mean brightness in standard deviations that is worth a look: a small
#: effect (Cohen 1988, section 2.2). Differences within three standard errors are ignored.
BRIGHTNESS, STANDARD_ERRORS = 0.2, 3.0
_CHUNK = 1000


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is worth a look.

    Attributes:
        kind: such as `one_colour`.
        count: the number of images or classes.
        message: a sentence.
    """

    kind: str
    count: int
    message: str


def find_simple(dataset: Dataset) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """Findings about classes, colours and brightness, and by split the indices of images of one colour."""
    statistics = {name: pixel_statistics(split) for name, split in splits_of(dataset).items()}
    plain = {name: np.flatnonzero(spread < ONE_COLOUR) for name, (_, spread) in statistics.items()}
    findings = [*_class_findings(dataset)]
    count = sum(map(len, plain.values()))
    if count:
        findings.append(
            Finding("one_colour", count, f"{counted(count, 'image')} with nearly one colour everywhere.")
        )
    train, test = (statistics[name][0] for name in ("train", "test"))
    difference = float(train.mean() - test.mean())
    spread = float(np.sqrt((train.var() + test.var()) / 2))
    error = float(np.sqrt(train.var() / len(train) + test.var() / len(test)))
    if abs(difference) > max(BRIGHTNESS * spread, STANDARD_ERRORS * error):
        which = "brighter" if difference > 0 else "darker"
        findings.append(
            Finding(
                "brightness",
                len(train) + len(test),
                f"The training images are {which} than the test images: on average {train.mean():.0f} and "
                f"{test.mean():.0f} of 255.",
            )
        )
    return findings, plain


def splits_of(dataset: Dataset) -> dict[str, Split]:
    """The splits by name, training images first."""
    return {"train": dataset.train, "test": dataset.test}


def _class_findings(dataset: Dataset) -> list[Finding]:
    sizes = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    smallest, largest = int(np.argmin(sizes)), int(np.argmax(sizes))
    findings = []
    if sizes[largest] > IMBALANCE * sizes[smallest]:
        findings.append(
            Finding(
                "imbalance",
                len(sizes),
                f"The class {dataset.classes[largest]} has {counted(int(sizes[largest]), 'training image')}, "
                f"{dataset.classes[smallest]} has {sizes[smallest]:,}. Consider train --class-weights "
                "balanced.",
            )
        )
    few = np.flatnonzero(sizes < FEW_IMAGES)
    if len(few):
        named = ", ".join(f"{dataset.classes[label]} ({sizes[label]})" for label in few[:5])
        more = f" and {len(few) - 5} more" if len(few) > 5 else ""
        findings.append(
            Finding(
                "few_images",
                len(few),
                f"Fewer than {FEW_IMAGES} training images: {named}{more}. Results on small classes are "
                "uncertain.",
            )
        )
    return findings


def pixel_statistics(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Brightness of each image, and the largest standard deviation of its channels: float64 [N] each.

    Both are on the scale of the pixels, 0 to 255.
    """
    means, spreads = np.empty(len(split)), np.empty(len(split))
    for start in range(0, len(split), _CHUNK):
        chunk = split.images[start : start + _CHUNK].astype(np.float32)
        means[start : start + _CHUNK] = chunk.mean(axis=(1, 2, 3))
        spreads[start : start + _CHUNK] = chunk.std(axis=(1, 2)).max(axis=1)
    return means, spreads
