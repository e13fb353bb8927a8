"""Check a data set: copies across splits, suspect labels, and what the images and classes alone tell."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_trainer import files
from cifar_trainer.checks.findings import Finding, find_simple
from cifar_trainer.data.copies import find_originals
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import UsageError, counted
from cifar_trainer.results import Result
from cifar_trainer.run import open_run
from cifar_trainer.settings import DEFAULT_DATA_DIR

FOLDER = "check"
_REMEDY = "Make room, or give write access to the data folder."
#: Called with a task's name, and its progress: (name, done, total).
Progress = Callable[[str, int, int | None], None]


@dataclasses.dataclass(frozen=True)
class DataCheck(Result):
    """What `check data --json` prints.

    Attributes:
        dataset: the name.
        images: number of images in both splits.
        near_duplicates: number of groups of images that are copies, or nearly copies, of each other.
        across_splits: number of test images in a group with training images.
        label_suspects: number of labels that are probably wrong.
        findings: everything found, a sentence each.
        report: path of the page.
    """

    dataset: str
    images: int
    near_duplicates: int
    across_splits: int
    label_suspects: int
    findings: tuple[Finding, ...]
    report: str


def check_data(
    dataset: str | None = None,
    *,
    run: str | Path | None = None,
    data_dir: str | Path | None = None,
    verbose: bool = False,
    on_progress: Progress = lambda name, done, total: None,
) -> DataCheck:
    """Find copies of images and suspect labels in a prepared data set, and write a report. Changes no data.

    The report is the folder DATA_DIR/DATASET/check.

    Args:
        dataset: name of the data set; None is the run's, or `cifar10`.
        run: a run whose features are compared; None trains a small network for them.
        data_dir: folder of the prepared data sets; None is the run's, or `data`.
        verbose: show TensorFlow's own messages.
        on_progress: called with (name, done, total).

    Raises:
        UsageError: the run was trained on another data set.
        DataError: the data set is missing or damaged.
        RunError: the run has no model, or the report cannot be written.
    """
    opened = None if run is None else open_run(run, with_model=True)
    if opened is None:
        folder = DEFAULT_DATA_DIR if data_dir is None else Path(data_dir).expanduser()
        loaded = load_dataset(folder, dataset or "cifar10")
    else:
        loaded = opened.load_data(data_dir)
        if dataset not in (None, loaded.name):
            raise UsageError(f"--run {run} was trained on {loaded.name}, got --dataset {dataset}.")
    findings, _ = find_simple(loaded)
    images = np.concatenate([loaded.train.images, loaded.test.images])
    originals = find_originals(images)
    test_originals = originals[len(loaded.train) :]
    across = int((test_originals < len(loaded.train)).sum())
    groups = len(np.unique(originals[originals != np.arange(len(images))]))
    if groups:
        findings.append(
            Finding(
                "copies", groups, f"{counted(groups, 'group')} of exact copies, {across:,} across splits."
            )
        )
    target = loaded.folder / FOLDER
    result = DataCheck(
        loaded.name, len(images), groups, across, 0, tuple(findings), str(target / "report.html")
    )
    with files.writing(target, _REMEDY), files.atomic_folder(target, replace=True) as partial:
        files.write_json(partial / "check.json", result.to_json())
    return result
