"""Check a data set: copies across splits, suspect labels, and odd images or classes."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.checks.data_report import (
    DataCheck,
    Group,
    Image,
    Suspect,
    for_spreadsheets,
    format_groups,
    format_suspects,
)
from cifar_trainer.checks.findings import Finding, find_simple, splits_of
from cifar_trainer.data.check_record import FOLDER, CheckRecord, read_check, write_check
from cifar_trainer.data.copies import find_originals
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.mapped import release_pages
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import UsageError, counted
from cifar_trainer.run import Run, open_run
from cifar_trainer.settings import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from cifar_trainer.checks.folds import Predictions

_REMEDY = "Free some disk space, or make the data folder writable."
#: Called with a task's name, and its progress: (name, done, total).
Progress = Callable[[str, int, int | None], None]


def check_data(
    dataset: str | None = None,
    *,
    run: str | Path | None = None,
    data_dir: str | Path | None = None,
    verbose: bool = False,
    on_progress: Progress = lambda name, done, total: None,
) -> DataCheck:
    """Find copies of images and suspect labels in a prepared data set, and write a report. Changes no data.

    The report is the folder DATA_DIR/DATASET/check: report.html, groups.csv, suspects.csv and check.json.

    Args:
        dataset: name of the data set; by default, the run's, or `cifar10`.
        run: a run whose features are compared; by default, those of a network that the check trains.
        data_dir: folder of the prepared data sets; by default, the run's, or `data`.
        verbose: show TensorFlow's own messages.
        on_progress: called with (name, done, total).

    Raises:
        UsageError: the run was trained on another data set.
        DataError: the data set is missing or damaged.
        RunError: the run has no model, or the report cannot be written.
    """
    opened = None if run is None else open_run(run, with_model=True)
    loaded = _load(dataset, opened, data_dir)
    device = devices.start(verbose=verbose)
    # These import TensorFlow, which `devices.start` has to configure first.
    from cifar_trainer.checks.data_page import render_page
    from cifar_trainer.checks.folds import predict_out_of_sample, settings

    config = settings(loaded)
    findings, odd = find_simple(loaded)
    predictions = predict_out_of_sample(
        loaded, config, gpu=device.kind == "gpu", on_progress=functools.partial(on_progress, "training")
    )
    suspects = find_label_suspects(loaded, predictions)
    groups = find_groups(loaded, predictions, opened, functools.partial(on_progress, "comparing"))
    across = sum(image.split == "test" for group in groups if group.is_across for image in group.images)
    findings = [*_describe(groups, across, suspects), *findings]
    target = loaded.folder / FOLDER
    earlier = read_check(loaded)
    result = DataCheck(
        dataset=loaded.name,
        images=len(loaded.train) + len(loaded.test),
        near_duplicates=len(groups),
        across_splits=across,
        label_suspects=len(suspects),
        findings=tuple(findings),
        report=str(target / "report.html"),
    )
    record = CheckRecord(
        train=loaded.train.fingerprint,
        test=loaded.test.fingerprint,
        groups=tuple(tuple((image.split, image.index) for image in group.images) for group in groups),
        test_label_checks=1 + (0 if earlier is None else earlier.test_label_checks),
    )
    page = render_page(loaded, result, record, groups, suspects, odd, config, run)
    with files.writing(target, _REMEDY), files.atomic_folder(target, replace=True) as partial:
        files.write_text(partial / "report.html", page)
        for name, table in (
            ("groups.csv", format_groups(loaded, groups)),
            ("suspects.csv", format_suspects(loaded, suspects)),
        ):
            files.write_text(partial / name, for_spreadsheets(table))
        write_check(partial, record)
    return result


def _load(dataset: str | None, run: Run | None, data_dir: str | Path | None) -> Dataset:
    if run is None:
        folder = DEFAULT_DATA_DIR if data_dir is None else Path(data_dir).expanduser()
        return load_dataset(folder, dataset or "cifar10")
    loaded = run.load_data(data_dir)
    if dataset not in (None, loaded.name):
        raise UsageError(
            f"--dataset {dataset} does not match --run {run.path}, which was trained on {loaded.name}. "
            "Leave one of them out."
        )
    return loaded


def find_groups(
    dataset: Dataset,
    predictions: "Predictions",
    run: Run | None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Group]:
    """The groups of copies and near-duplicates within and across the splits, most similar first.

    Args:
        dataset: the data.
        predictions: the features of their model are compared if `run` is None.
        run: a run whose model's features are compared.
        on_progress: called with (done, total).

    Raises:
        RunError: the run's model is damaged.
    """
    from cifar_trainer.checks import neighbours
    from cifar_trainer.model import hidden_features, load_model

    images = np.concatenate([dataset.train.images, dataset.test.images])
    for split in (dataset.train, dataset.test):
        release_pages(split.images)
    model = predictions.model if run is None else load_model(run.model)
    pairs = neighbours.find_pairs(images, hidden_features(model)(images), on_progress)
    originals = find_originals(images)
    copies = np.flatnonzero(originals != np.arange(len(images)))
    pairs = neighbours.Pairs(
        np.concatenate([originals[copies], pairs.first]),
        np.concatenate([copies, pairs.second]),
        np.concatenate([np.ones(len(copies), np.float32), pairs.similarity]),
    )
    everything = [Image(name, i) for name, split in splits_of(dataset).items() for i in range(len(split))]
    return [
        Group(tuple(everything[i] for i in members), similarity)
        for members, similarity in neighbours.group(pairs, len(images))
    ]


def find_label_suspects(dataset: Dataset, predictions: "Predictions") -> list[Suspect]:
    """The suspect labels of both splits, least probable first."""
    from cifar_trainer.checks.labels import find_suspects

    found = []
    for name, split in splits_of(dataset).items():
        labels = split.labels.astype(np.int64)
        suspects = find_suspects(getattr(predictions, name), labels)
        columns = (suspects.index.tolist(), suspects.suggested.tolist(), suspects.score.tolist())
        found += [
            Suspect(Image(name, index), int(labels[index]), suggested, score)
            for index, suggested, score in zip(*columns, strict=True)
        ]
    return sorted(found, key=lambda suspect: suspect.score)


def _describe(groups: list[Group], across: int, suspects: list[Suspect]) -> Iterator[Finding]:
    if across:
        message = f"{counted(across, 'test image')} with a copy or near-duplicate among the training images."
        yield Finding("across_splits", across, message)
    if groups:
        images = sum(len(group.images) for group in groups)
        message = f"{counted(len(groups), 'group')} of copies and near-duplicates, {images:,} images in all."
        yield Finding("near_duplicates", len(groups), message)
    if suspects:
        message = (
            f"{counted(len(suspects), 'label')} may be wrong; suspects.csv lists the least probable first."
        )
        yield Finding("label_suspects", len(suspects), message)
