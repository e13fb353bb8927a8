"""The result of `check data` beside a data set, for commands that use it later."""

import dataclasses
from pathlib import Path

from cifar_trainer import files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.errors import CifarTrainerError

#: The folder of a check within the data set's folder, and its record.
FOLDER, NAME = "check", "check.json"


@dataclasses.dataclass(frozen=True)
class CheckRecord:
    """check.json.

    Attributes:
        train, test: fingerprints of the checked splits.
        groups: for each group of copies and near-duplicates, its images: split and index.
        test_label_checks: how often the labels of these test images have been compared with predictions.
    """

    train: str
    test: str
    groups: tuple[tuple[tuple[str, int], ...], ...]
    test_label_checks: int


def read_check(dataset: Dataset) -> CheckRecord | None:
    """The check of a data set; None if it was not checked, or has changed since."""
    path = dataset.folder / FOLDER / NAME
    try:
        record = files.read_json(path, CheckRecord)
    except (CifarTrainerError, OSError):
        # The record is missing, damaged, or from another version; `check data` writes a new one.
        return None
    same = (record.train, record.test) == (dataset.train.fingerprint, dataset.test.fingerprint)
    return record if same else None


def write_check(folder: Path, record: CheckRecord) -> None:
    """Write check.json into `folder`."""
    files.write_json(folder / NAME, dataclasses.asdict(record))
