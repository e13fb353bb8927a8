"""Data sets: where they come from, how they lie on the disk, and how they are split."""

import difflib

from cifar_trainer.data.cifar10 import CIFAR10
from cifar_trainer.data.cifar100 import CIFAR100, CIFAR100_COARSE
from cifar_trainer.data.dataset import DatasetSpec
from cifar_trainer.data.fashion_mnist import FASHION_MNIST
from cifar_trainer.data.svhn import SVHN
from cifar_trainer.data.synthetic import SYNTHETIC
from cifar_trainer.errors import UsageError

#: Every data set that is known by name.
DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec for spec in (CIFAR10, SYNTHETIC, CIFAR100, CIFAR100_COARSE, FASHION_MNIST, SVHN)
}


def get_spec(name: str) -> DatasetSpec:
    """The data set of that name.

    Raises:
        UsageError: there is none; the message has the nearest name.
    """
    if name in DATASETS:
        return DATASETS[name]
    near = difflib.get_close_matches(name, DATASETS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(
        f"--dataset {name!r} is not known. Choose from {', '.join(DATASETS)}.{hint} "
        f"For classes of your own: cifar-trainer prepare --dataset NAME --source FOLDER"
    )
