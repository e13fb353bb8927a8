"""Finds data sets that other programs have downloaded."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cifar_trainer.data.dataset import CacheNames


def find_cached(names: CacheNames) -> Iterator[Path]:
    """Files and folders that may hold a data set of these names; their content has to be verified.

    Looks into the caches of Keras, torchvision (`./data`), Hugging Face and TensorFlow Datasets, also if
    KERAS_HOME, HF_HOME, HF_HUB_CACHE or TFDS_DATA_DIR has moved them.
    """
    for path in _candidates(names):
        # Skip caches that we cannot read.
        if os.access(path, os.R_OK):
            yield path


def _candidates(names: CacheNames) -> Iterator[Path]:
    keras = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "datasets"
    for entry in names.keras:
        yield keras / entry
    for root in (Path("data"), Path.home() / "data"):
        for entry in names.torchvision:
            yield root / entry
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    for entry in names.hugging_face:
        # Each revision has its own folder: try the newest first.
        snapshots = hub / f"datasets--{entry.replace('/', '--')}" / "snapshots"
        yield from sorted(snapshots.glob("*"), key=_modified, reverse=True)
    tfds = Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    for entry in names.tensorflow_datasets:
        yield from sorted((tfds / entry).glob("*.*.*"), reverse=True)


def _modified(path: Path) -> float:
    """When a file was modified; 0 for a broken link."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
