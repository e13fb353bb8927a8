"""Findings about a data set that need no model: classes, colours, brightness, sizes."""

import dataclasses

import numpy as np

from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.errors import counted

#: A class with fewer training images is too small to be learned, or to be checked for wrong labels.
FEW_IMAGES = 50
#: Largest ratio of the classes' numbers of training images that is not reported.
IMBALANCE = 10
#: Standard deviation of an image's pixels, 0 to 255, below which it is nearly one colour.
ONE_COLOUR = 4.0
#: Difference in mean brightness between the splits, in standard deviations, that is reported: a small effect
#: (Cohen 1988, section 2.2). Differences within three standard errors are ignored.
BRIGHTNESS, STANDARD_ERRORS = 0.2, 3.0
#: An image is unusual if its number of pixels, or its longer side divided by the shorter one, is outside the
#: quartiles by more than three interquartile ranges (Tukey 1977, outer fences), and by these factors.
PIXELS, ELONGATION = 4.0, 2.0
_CHUNK = 1000


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something in the data that deserves a look.

    Attributes:
        kind: such as `one_colour`.
        count: the number of images or classes.
        message: a sentence.
    """

    kind: str
    count: int
    message: str


#: Indices of images, by the kind of a finding and by split.
Odd = dict[str, dict[str, np.ndarray]]


def find_simple(dataset: Dataset) -> tuple[list[Finding], Odd]:
    """Findings about classes, colours, sizes and brightness, and the images of one colour or unusual size."""
    splits = splits_of(dataset)
    statistics = {name: pixel_statistics(split) for name, split in splits.items()}
    plain = {name: np.flatnonzero(spread < ONE_COLOUR) for name, (_, spread) in statistics.items()}
    findings = [*_class_findings(dataset)]
    count = sum(map(len, plain.values()))
    if count:
        findings.append(Finding("one_colour", count, f"{counted(count, 'image')} of nearly one colour."))
    unusual: dict[str, np.ndarray] = {}
    train, test = splits.values()
    # Data sets prepared by an older version have no sizes.
    if train.sizes is not None and test.sizes is not None:
        sizes = np.concatenate([train.sizes, test.sizes])
        marked = unusual_sizes(sizes)
        unusual["train"] = np.flatnonzero(marked[: len(train)])
        unusual["test"] = np.flatnonzero(marked[len(train) :])
        count, (width, height) = int(marked.sum()), sizes[np.argsort(sizes.prod(axis=1))[len(sizes) // 2]]
        if count:
            message = (
                f"{counted(count, 'image')} of unusual size or shape. A typical one is {width}×{height}."
            )
            findings.append(Finding("size", count, message))
    means = [statistics[name][0] for name in splits]
    difference = float(means[0].mean() - means[1].mean())
    spread = float(np.sqrt((means[0].var() + means[1].var()) / 2))
    error = float(np.sqrt(sum(each.var() / len(each) for each in means)))
    if abs(difference) > max(BRIGHTNESS * spread, STANDARD_ERRORS * error):
        which = "brighter" if difference > 0 else "darker"
        findings.append(
            Finding(
                "brightness",
                len(train) + len(test),
                f"The training images are {which} than the test images: on average {means[0].mean():.0f} and "
                f"{means[1].mean():.0f} of 255.",
            )
        )
    return findings, {"one_colour": plain, "size": unusual}


def unusual_sizes(sizes: np.ndarray) -> np.ndarray:
    """Which images are much larger, smaller or more elongated than the rest: bool [N].

    Args:
        sizes: widths and heights, [N, 2].
    """
    width, height = np.log2(sizes).T
    unusual = np.zeros(len(sizes), bool)
    # Which side is longer does not matter.
    for values, factor in ((width + height, PIXELS), (abs(width - height), ELONGATION)):
        low, high = np.percentile(values, (25, 75))
        distance = max(3 * (high - low), np.log2(factor))
        unusual |= (values < low - distance) | (values > high + distance)
    return unusual


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
