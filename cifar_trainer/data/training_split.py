"""Which images a run trains on, and which it watches."""

import numpy as np

from cifar_trainer.config import TrainConfig
from cifar_trainer.data.dataset import Dataset, Split
from cifar_trainer.data.splits import holdout, stratified_limit
from cifar_trainer.errors import UsageError

#: The part of the training images that --validation holdout sets aside: 5,000 of CIFAR-10's 50,000.
HOLDOUT_FRACTION = 10


def split_for(dataset: Dataset, config: TrainConfig) -> tuple[np.ndarray, Split]:
    """The indices of the training images of a run, int64 [N], and the split that it watches.

    The held-out images are chosen first: a run with --limit and one without hold out
    the same ones.
    """
    labels = dataset.train.labels
    if config.validation == "holdout":
        indices, held_out = holdout(labels, len(labels) // HOLDOUT_FRACTION, config.seed)
        whole = dataset.train
        watched = Split(whole.images[held_out], labels[held_out], whole.fingerprint, whole.sha256)
    else:
        indices, watched = np.arange(len(labels)), dataset.test
    if config.limit is not None:
        indices = indices[stratified_limit(labels[indices], config.limit)]
    return indices, watched


def evaluated_split(dataset: Dataset, config: TrainConfig, name: str) -> Split:
    """The images of `test`, or those that the run held out as `validation`."""
    return dataset.test if name == "test" else split_for(dataset, config)[1]


def check_split(config: TrainConfig, split_name: str) -> None:
    """Raise UsageError where a run has no such split: only `holdout` sets validation images aside."""
    if split_name == "validation" and config.validation != "holdout":
        raise UsageError(
            "--split validation: this run watched the test set (--validation test) and held no training "
            "images back. Evaluate it with --split test, or train with --validation holdout."
        )


def check_fit(dataset: Dataset, config: TrainConfig) -> None:
    """Raise UsageError, with the largest value possible, where the settings ask for more than there is."""
    available = len(dataset.train)
    if config.validation == "holdout":
        available -= available // HOLDOUT_FRACTION
    if config.limit is not None and config.limit > available:
        raise UsageError(
            f"--limit {config.limit} is more than the {available} training images; "
            f"the largest possible is {available}."
        )
    images = available if config.limit is None else config.limit
    if config.batch_size > images:
        raise UsageError(
            f"--batch-size {config.batch_size} is more than the {images} training images; "
            f"the largest possible is {images}."
        )
