"""Reading a source, whatever it is: told apart by what lies in it, not by its name."""

from collections.abc import Callable
from pathlib import Path

from cifar_trainer.data import images, official
from cifar_trainer.data.archives import Source, open_source
from cifar_trainer.data.dataset import RawDataset
from cifar_trainer.data.members import some
from cifar_trainer.errors import DataError


def read_source(path: Path, on_images: Callable[[int, int], None]) -> RawDataset:
    """Read the official archives, their extracted folders, or class folders of pictures.

    Args:
        path: a folder, a zip or a tar, plain or gzip.
        on_images: told how many images are read, and of how many.

    Raises:
        DataError: it is none of these, or not what it should be.
    """
    source = open_source(path)
    if not source.members:
        raise DataError(f"{path} is empty. {_EXPECTED}")
    names = _without_top(source)
    first_parts = {name.split("/")[0] for name in names}
    if official.is_cifar100(names):
        raise DataError(f"{path} holds CIFAR-100: a hundred classes. {_EXPECTED}")
    if official.is_python_version(names):
        return official.read_python_version(source, names, on_images)
    if official.is_binary_version(names):
        return official.read_binary_version(source, names, on_images)
    if first_parts & {"train", "test"}:
        return images.read_class_folders(source, names, on_images)
    raise DataError(f"{path} is no data set that is known here: it holds {some(names)}. {_EXPECTED}")


_EXPECTED = (
    "Expected CIFAR-10's official Python or binary version, or pictures laid out as "
    "train/CLASS/*.png|jpg and test/CLASS/*.png|jpg."
)


def _without_top(source: Source) -> dict[str, str]:
    """The members' names by their names without the one folder that may lie around it all."""
    tops = {name.split("/")[0] for name in source.members}
    if len(tops) == 1 and all("/" in name for name in source.members) and not tops & {"train", "test"}:
        return {name.split("/", 1)[1]: name for name in source.members}
    return {name: name for name in source.members}
