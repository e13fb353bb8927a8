"""Data sets: where they come from, how they are stored, and how they are split."""

import difflib
import re
from collections.abc import Iterable

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


def find_spec(name: str) -> DatasetSpec | None:
    """The known data set of that name, in any spelling (`CIFAR-10`, `FashionMNIST`); None if unknown."""
    return {_plain(known): spec for known, spec in DATASETS.items()}.get(_plain(name))


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def get_spec(name: str, prepared: Iterable[str] = ()) -> DatasetSpec:
    """The known data set of that name. Raises UsageError with the nearest known or `prepared` name."""
    spec = find_spec(name)
    if spec is not None:
        return spec
    own = [other for other in prepared if other not in DATASETS]
    names = [*DATASETS, *own]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    prepared_here = f", or {', '.join(own)}, which you prepared yourself" if own else ""
    raise UsageError(
        f"--dataset {name!r} is unknown. Choose from {', '.join(DATASETS)}{prepared_here}.{hint} "
        "For classes of your own: cifar-trainer prepare --dataset NAME --source FOLDER"
    )
