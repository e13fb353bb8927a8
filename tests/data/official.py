"""Small copies of what the authors of each data set publish: a few images in the official forms."""

import gzip
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from builders import Members

from cifar_trainer.data import DATASETS, cifar10, cifar100, fashion_mnist
from cifar_trainer.data.dataset import Split

#: Images in each of CIFAR-10's batches here, instead of 10,000.
BATCH = 20
#: Images for training and for testing here, in the other data sets.
SIZES = {"train": 200, "test": 100}


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect as many images as there are here, in this process."""
    monkeypatch.setattr(cifar10, "BATCH_IMAGES", BATCH)
    monkeypatch.setattr(cifar100, "SIZES", SIZES)
    monkeypatch.setattr(fashion_mnist, "SIZES", {"train": SIZES["train"], "t10k": SIZES["test"]})


def draw(name: str) -> dict[str, Split]:
    """The images of a data set, different ones, and their labels: each class is there."""
    shape, classes = DATASETS[name].image_shape, len(DATASETS[name].classes)
    sizes = {"train": 5 * BATCH, "test": BATCH} if name == "cifar10" else SIZES
    splits = {}
    for split, count in sizes.items():
        number = np.arange(count) + 1000 * (split == "test")
        images = np.zeros((count, *shape), np.uint8)
        images[:, 0, 1, 0], images[:, 5, 2, -1], images[:, -1, 3] = number % 256, number // 256, 200
        labels = (np.arange(count) * 7 % classes).astype(np.uint8)
        if name == "fashion-mnist":
            first = fashion_mnist.FIRST_LABELS["train" if split == "train" else "t10k"]
            labels[: len(first)] = first
        splits[split] = Split(images, labels)
    return splits


def by_channel(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), 3072))


def batches() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """CIFAR-10's batches: the name, the images and the labels of each one."""
    splits = draw("cifar10")
    found = []
    for number in range(5):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        train = splits["train"]
        found.append((f"data_batch_{number + 1}", train.images[rows], train.labels[rows]))
    return [*found, ("test_batch", splits["test"].images, splits["test"].labels)]


def python_batch(images: np.ndarray, labels: list[int], protocol: int = 2) -> bytes:
    """A batch of the Python version, as cPickle wrote it."""
    names = [f"image_{index}.png".encode() for index in range(len(labels))]
    batch = {b"batch_label": b"a batch", b"labels": labels, b"data": by_channel(images), b"filenames": names}
    return pickle.dumps(batch, protocol)


def python_meta() -> bytes:
    names = [name.encode() for name in cifar10.CLASSES]
    return pickle.dumps({b"num_cases_per_batch": 10000, b"label_names": names, b"num_vis": 3072}, 2)


def cifar10_python() -> Members:
    members = {name: python_batch(images, labels.tolist()) for name, images, labels in batches()}
    return {"readme.html": b"<html>", **members, "batches.meta": python_meta()}


def cifar10_binary() -> Members:
    """Records of a label byte and the pixels by channel."""
    members = {
        f"{name}.bin": np.concatenate([labels[:, None], by_channel(images)], 1).tobytes()
        for name, images, labels in batches()
    }
    return {"batches.meta.txt": "\n".join([*cifar10.CLASSES, ""]).encode(), **members}


def cifar10_matlab(*, cells: bool = True) -> Members:
    """MATLAB files; `cells`: names are cells, as MATLAB writes them."""
    members = {
        f"{name}.mat": mat({"data": by_channel(images), "labels": labels[:, None], "batch_label": name})
        for name, images, labels in batches()
    }
    meta = np.empty((10, 1), object)
    meta[:, 0] = [np.array([name]) if cells else name for name in cifar10.CLASSES]
    return {"readme.html": b"<html>", "batches.meta.mat": mat({"label_names": meta}), **members}


def mat(arrays: dict[str, Any]) -> bytes:
    import scipy.io

    file = io.BytesIO()
    scipy.io.savemat(file, arrays, do_compression=True)
    return file.getvalue()


def _cifar100() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The images with the fine and the coarse labels, which do not follow from each other here."""
    fine, coarse = draw("cifar100"), draw("cifar100-coarse")
    return {name: (split.images, split.labels, coarse[name].labels) for name, split in fine.items()}


def cifar100_python() -> Members:
    members = {}
    for name, (images, fine, coarse) in _cifar100().items():
        batch = {
            b"data": by_channel(images), b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist(),
            b"filenames": [f"image_{index}.png".encode() for index in range(len(fine))], b"batch_label": b"x",
        }  # fmt: skip
        members[name] = pickle.dumps(batch, 2)
    return {**members, "meta": pickle.dumps({b"fine_label_names": []}, 2), "file.txt~": b""}


def cifar100_binary() -> Members:
    """Records of a coarse label byte, a fine label byte, and the pixels by channel."""
    members = {
        f"{name}.bin": np.concatenate([coarse[:, None], fine[:, None], by_channel(images)], 1).tobytes()
        for name, (images, fine, coarse) in _cifar100().items()
    }
    return {**members, "fine_label_names.txt": b"apple\n", "coarse_label_names.txt": b"fish\n"}


def idx(array: np.ndarray) -> bytes:
    """An array of bytes in the IDX format."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


def fashion_mnist_files(name: str = "{split}-{kind}-idx{axes}-ubyte") -> Members:
    """The four files, uncompressed; `name` is the pattern of their names."""
    members = {}
    for split, found in draw("fashion-mnist").items():
        prefix = "train" if split == "train" else "t10k"
        members[name.format(split=prefix, kind="images", axes=3)] = idx(found.images[..., 0])
        members[name.format(split=prefix, kind="labels", axes=1)] = idx(found.labels)
    return members


def fashion_mnist_packed() -> Members:
    return {f"{name}.gz": gzip.compress(content) for name, content in fashion_mnist_files().items()}


def svhn_files() -> Members:
    """Two MATLAB files with images of 32×32×3×N and labels, in which 10 stands for 0."""
    return {
        f"{name}_32x32.mat": mat(
            {
                "X": split.images.transpose(1, 2, 3, 0),
                "y": np.where(split.labels == 0, 10, split.labels)[:, None],
            }
        )
        for name, split in draw("svhn").items()
    }


#: The published versions of each data set: the name, the folder in its archive if it has one, and the files.
VERSIONS: list[tuple[str, str, str, Callable[[], Members]]] = [
    ("cifar10", "Python", "cifar-10-batches-py", cifar10_python),
    ("cifar10", "binary", "cifar-10-batches-bin", cifar10_binary),
    ("cifar10", "MATLAB", "cifar-10-batches-mat", cifar10_matlab),
    ("cifar10", "MATLAB without cells", "cifar-10-batches-mat", lambda: cifar10_matlab(cells=False)),
    ("cifar100", "Python", "cifar-100-python", cifar100_python),
    ("cifar100", "binary", "cifar-100-binary", cifar100_binary),
    ("cifar100-coarse", "Python", "cifar-100-python", cifar100_python),
    ("cifar100-coarse", "binary", "cifar-100-binary", cifar100_binary),
    ("fashion-mnist", "gzip", "", fashion_mnist_packed),
    ("fashion-mnist", "plain", "", fashion_mnist_files),
    ("fashion-mnist", "with dots", "", lambda: fashion_mnist_files("{split}-{kind}.idx{axes}-ubyte")),
    ("svhn", "MATLAB", "", svhn_files),
]


def as_folder(path: Path, folder: str, members: Members) -> Path:
    builders.write_folder(path / folder, members)
    return path / folder


def as_tar(path: Path, folder: str, members: Members) -> Path:
    return builders.write_tar(path / "published.tar.gz", builders.under(folder or "data", members))


def as_zip(path: Path, folder: str, members: Members) -> Path:
    return builders.write_zip(path / "published.zip", builders.under(folder or "data", members))


def as_tar_in_zip(path: Path, folder: str, members: Members) -> Path:
    tar = as_tar(path, folder, members)
    return builders.write_zip(path / "kaggle.zip", {tar.name: tar.read_bytes()})


#: The forms that docs/data.md names.
FORMS = {"folder": as_folder, "tar.gz": as_tar, "zip": as_zip, "tar.gz in a zip": as_tar_in_zip}
