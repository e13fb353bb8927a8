"""The result of `check data`, and its CSV files."""

import dataclasses

from cifar_trainer import files
from cifar_trainer.checks.findings import Finding, splits_of
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.results import Result


@dataclasses.dataclass(frozen=True)
class DataCheck(Result):
    """What `check data --json` prints.

    Attributes:
        dataset: the name.
        images: number of images in both splits.
        near_duplicates: number of groups of copies and near-duplicates.
        across_splits: number of test images in a group with training images.
        label_suspects: number of labels that are probably wrong.
        findings: everything found, one sentence per finding.
        report: path of the page.
    """

    dataset: str
    images: int
    near_duplicates: int
    across_splits: int
    label_suspects: int
    findings: tuple[Finding, ...]
    report: str


@dataclasses.dataclass(frozen=True)
class Image:
    """An image of a data set, by split and index."""

    split: str
    index: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Copies and near-duplicates of one picture.

    Attributes:
        images: at least two, training images first.
        similarity: of the two most similar ones; 1 for exact copies.
    """

    images: tuple[Image, ...]
    similarity: float

    @property
    def is_across(self) -> bool:
        """Whether it has images of both splits."""
        return len({image.split for image in self.images}) > 1


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong.

    Attributes:
        image: the image.
        label, suggested: the given class, and the most probable other one.
        score: probability of the given class by a network that was not trained on the image.
    """

    image: Image
    label: int
    suggested: int
    score: float


def file_of(dataset: Dataset, image: Image) -> str:
    """The name of an image's file; empty if the source had no names."""
    names = splits_of(dataset)[image.split].files
    return names[image.index] if names else ""


def format_groups(dataset: Dataset, groups: list[Group]) -> str:
    """groups.csv: a row for each image of each group. `prepare --keep-groups` reads it."""
    return files.format_csv(
        ("group", "split", "index", "file", "label", "similarity"),
        (
            {**_row(dataset, image), "group": number, "similarity": group.similarity}
            for number, group in enumerate(groups, 1)
            for image in group.images
        ),
    )


def format_suspects(dataset: Dataset, suspects: list[Suspect]) -> str:
    """suspects.csv with the given labels. `prepare --relabel` reads it after the user has edited them."""
    return files.format_csv(
        ("split", "index", "file", "label", "suggested", "score"),
        (
            {**_row(dataset, each.image), "suggested": dataset.classes[each.suggested], "score": each.score}
            for each in suspects
        ),
    )


def for_spreadsheets(table: str) -> str:
    """A CSV table, with a byte order mark if it is not ASCII: Excel decodes UTF-8 only with one."""
    return table if table.isascii() else f"\ufeff{table}"


def _row(dataset: Dataset, image: Image) -> dict[str, object]:
    label = splits_of(dataset)[image.split].labels[image.index]
    names = {"file": file_of(dataset, image), "label": dataset.classes[label]}
    return {**dataclasses.asdict(image), **names}
