"""Datasets: where they come from, how they lie on the disk, and how they are split."""

from cifar_trainer.data.dataset import CIFAR10_CLASSES, Dataset, Split, SplitSummary
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.data.preparation import PreparedReport, prepare
from cifar_trainer.data.splits import holdout, stratified_limit
from cifar_trainer.data.store import load_dataset

__all__ = [
    "CIFAR10_CLASSES",
    "Dataset",
    "PrepareReporter",
    "PreparedReport",
    "Split",
    "SplitSummary",
    "holdout",
    "load_dataset",
    "prepare",
    "stratified_limit",
]
