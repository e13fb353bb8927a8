"""CIFAR-10's official Python and binary versions."""

from collections.abc import Callable

from cifar_trainer.data.archives import Source
from cifar_trainer.data.dataset import RawDataset


def is_cifar100(names: dict[str, str]) -> bool:
    return False


def is_python_version(names: dict[str, str]) -> bool:
    return False


def is_binary_version(names: dict[str, str]) -> bool:
    return False


def read_python_version(s: Source, names: dict[str, str], on: Callable[[int, int], None]) -> RawDataset:
    raise NotImplementedError


def read_binary_version(s: Source, names: dict[str, str], on: Callable[[int, int], None]) -> RawDataset:
    raise NotImplementedError
