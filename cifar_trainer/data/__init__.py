"""Datasets: where they come from, how they lie on the disk, and how they are split."""

from cifar_trainer.data.dataset import CIFAR10_CLASSES, Dataset, Split
from cifar_trainer.data.preparation import prepare
from cifar_trainer.data.report import PreparedReport, Reporter, SplitSummary
from cifar_trainer.data.splits import holdout, stratified_limit
from cifar_trainer.data.store import load_dataset

__all__ = [
    "CIFAR10_CLASSES",
    "Dataset",
    "PreparedReport",
    "Reporter",
    "Split",
    "SplitSummary",
    "holdout",
    "load_dataset",
    "prepare",
    "stratified_limit",
]
