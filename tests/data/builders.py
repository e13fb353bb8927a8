"""Sources for the tests to read: pictures, class folders, archives, the official layouts."""

import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifar_trainer.data import DATASETS
from cifar_trainer.data.cifar10 import CLASSES as CIFAR10_CLASSES
from cifar_trainer.data.dataset import ImageSet
from cifar_trainer.data.decoding import ReadOptions
from cifar_trainer.data.partition import correct_and_check
from cifar_trainer.data.readers import read_source

Members = dict[str, bytes]
#: The fixture `run_cli`, and `refuse` of this folder's conftest.py.
RunCli = Callable[..., subprocess.CompletedProcess[str]]
Refuse = Callable[..., str]


def read(path: Path, name: str = "cifar10", **options: Any) -> ImageSet:
    """A source read as the data set `name`; an unknown name stands for a user's own classes."""
    read_options = ReadOptions(DATASETS.get(name), **options)
    found = read_source(path, read_options, lambda done, total: None)
    return correct_and_check(found, read_options, str(path))


def picture(number: int, size: tuple[int, int] = (32, 32), mode: str = "RGB", kind: str = "PNG") -> bytes:
    """A picture's file; `number` decides its colours."""
    width, height = size
    pixels = (np.arange(height * width * 3) * (number + 3) % 251).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(height, width, 3)).convert(mode).save(file, kind)
    return file.getvalue()


def class_folders(train: int = 2, test: int = 1, classes: tuple[str, ...] = CIFAR10_CLASSES) -> Members:
    """So many pictures of each class, laid out train/CLASS/*.png and test/CLASS/*.png."""
    return {
        f"{split}/{name}/{index}.png": picture(1000 * (split == "test") + 20 * label + index)
        for split, count in (("train", train), ("test", test))
        for label, name in enumerate(classes)
        for index in range(count)
    }


def write_folder(path: Path, members: Mapping[str, bytes]) -> Path:
    for name, content in members.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return path


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def write_tfrecord(path: Path, rows: list[tuple[bytes, int]]) -> Path:
    """Encoded images and their labels, as TensorFlow Datasets writes them."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for data, label in rows:
            features = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[data])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"train_1"])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return path


def tar_member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write_tar(
    path: Path,
    members: Mapping[str, bytes],
    *extra: tuple[tarfile.TarInfo, bytes],
    mode: str = "w:gz",
) -> Path:
    """A tar of `members`, the `extra` ones before them."""
    options = {"compresslevel": 1} if mode.endswith("gz") else {}
    with tarfile.open(path, mode, **options) as archive:
        for info, content in [*extra, *(tar_member(name, content) for name, content in members.items())]:
            archive.addfile(info, io.BytesIO(content))
    return path


def under(folder: str, members: Members) -> Members:
    return {f"{folder}/{name}": content for name, content in members.items()}


def snapshot(folder: Path) -> dict[str, str]:
    """What lies below a folder, each file by its hash; without the lock and the downloads."""
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if name != ".prepare.lock" and not relative.startswith("downloads/"):
                found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
