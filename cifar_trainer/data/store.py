"""The prepared folder: four arrays, dataset.json, samples.png; written whole, verified when read."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar_trainer import files
from cifar_trainer.data.dataset import Dataset, RawDataset, Split, SplitSummary
from cifar_trainer.errors import DataError, DataNotFoundError

#: CIFAR-10's fingerprints, measured over all 60,000 lossless images.
CIFAR10_TRAIN = "d59acf989e068e709ce686cda292672c7b212c08d29d3d3e6d8c3aa99eba6a85"
CIFAR10_TEST = "899683d46c3a8c66fd56e1af12202e69fe5a4517be10b0f68e04c78fe585c57c"

RECORD_BYTES = 1 + 32 * 32 * 3
_CHUNK = 5000


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 of the concatenated, sorted SHA-256 digests of each image's record.

    A record is one label byte, then 3,072 pixel bytes, row by row, RGB interleaved.

    Args:
        images: uint8 [N, 32, 32, 3], RGB.
        labels: uint8 [N].

    Returns:
        64 hexadecimal digits.
    """
    digests = []
    records = np.empty((_CHUNK, RECORD_BYTES), np.uint8)
    for start in range(0, len(labels), _CHUNK):
        stop = min(start + _CHUNK, len(labels))
        records[: stop - start, 0] = labels[start:stop]
        records[: stop - start, 1:] = images[start:stop].reshape(stop - start, -1)
        digests += [hashlib.sha256(record.data).digest() for record in records[: stop - start]]
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def is_cifar10(train: str, test: str) -> bool:
    """Whether the fingerprints of both splits are CIFAR-10's."""
    return train == CIFAR10_TRAIN and test == CIFAR10_TEST


PER_CLASS = 10
_SCALE = 2
_TILE = 32 * _SCALE
_GAP = 4
_LABEL_WIDTH = 112
_MARGIN = 12


def write_samples(path: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draw the first ten training images of each class, a row a class, with its name.

    Args:
        path: where the PNG goes.
        images: uint8 [N, 32, 32, 3], RGB.
        labels: uint8 [N].
        classes: the names, by label.
    """
    step = _TILE + _GAP
    width = _LABEL_WIDTH + PER_CLASS * step - _GAP + 2 * _MARGIN
    height = len(classes) * step - _GAP + 2 * _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for label, name in enumerate(classes):
        top = _MARGIN + label * step
        draw.text((_MARGIN, top + _TILE // 2), _shown(name), fill="#222222", font=font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(labels == label)[:PER_CLASS]):
            tile = Image.fromarray(images[index]).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + _LABEL_WIDTH + column * step, top))
    with files.atomic_writer(path) as file:
        sheet.save(file, format="PNG")


def _shown(name: str) -> str:
    """A class's name as far as the column holds it."""
    short = "".join(c if c.isprintable() else "?" for c in name)
    return short if len(short) <= 12 else short[:11] + "…"


RECORD_NAME = "dataset.json"
FORMAT = 1
SPLITS = ("train", "test")
#: samples.png and dataset.json; the arrays' size is known exactly.
_OTHER_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Record:
    """dataset.json: what lies in the folder, and the SHA-256 of each array's file.

    Attributes:
        files: for each .npy its `bytes` and `sha256`.
    """

    dataset: str
    source: str
    verified: bool
    classes: tuple[str, ...]
    train: SplitSummary
    test: SplitSummary
    files: dict[str, dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


def bytes_needed(images: int) -> int:
    """Bytes that a prepared folder of so many images takes on the disk."""
    return images * (32 * 32 * 3 + 1) + _OTHER_BYTES


def write_dataset(folder: Path, name: str, raw: RawDataset, source: str) -> Record:
    """Write the prepared folder; it appears whole, in the place of one that was there.

    Raises:
        OSError: a write, a flush or a rename failed; the folder is as it was.
    """
    with files.atomic_folder(folder, replace=True) as partial:
        sums: dict[str, dict[str, Any]] = {}
        summaries = {}
        for split in SPLITS:
            images, labels = raw.split(split)
            for kind, array in (("images", images), ("labels", labels)):
                path = partial / f"{split}_{kind}.npy"
                _save(path, array)
                sums[path.name] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
            summaries[split] = summarize(images, labels)
        train, test = summaries["train"], summaries["test"]
        verified = is_cifar10(train.fingerprint, test.fingerprint)
        record = Record(name, source, verified, raw.classes, train, test, sums)
        write_samples(partial / "samples.png", raw.train_images, raw.train_labels, raw.classes)
        files.write_json(partial / RECORD_NAME, record.to_json())
    return record


def _save(path: Path, array: np.ndarray) -> None:
    """Write an .npy file. numpy.save writes the same, but forgets why a write failed."""
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).data)


def summarize(images: np.ndarray, labels: np.ndarray) -> SplitSummary:
    """The figures of a split; sums are taken in whole numbers, so they are the same everywhere."""
    pixels = len(images) * 32 * 32
    total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for start in range(0, len(images), 5000):
        chunk = images[start : start + 5000].astype(np.int64)
        total += chunk.sum((0, 1, 2))
        squares += (chunk * chunk).sum((0, 1, 2))
    mean = [int(t) / pixels / 255 for t in total]
    variance = [
        (pixels * int(q) - int(t) * int(t)) / (pixels * pixels) for t, q in zip(total, squares, strict=True)
    ]
    return SplitSummary(
        images=len(images),
        per_class=tuple(int(n) for n in np.bincount(labels, minlength=10)),
        fingerprint=fingerprint(images, labels),
        mean=tuple(mean),
        std=tuple(v**0.5 / 255 for v in variance),
    )


def read_record(folder: Path) -> Record:
    """Read dataset.json, and check that each file it names is there in its size.

    Raises:
        DataNotFoundError: there is no dataset.json.
        DataError: it cannot be read, or a file is missing or of another size.
    """
    path = folder / RECORD_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataNotFoundError(
            f"No data is prepared in {folder}. Prepare it with: cifar-trainer prepare "
            "(or with --source PATH from a copy; or --dataset synthetic, drawn pictures that need no source)."
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. {_anew(folder)}") from error
    record = _parse_record(path, value)
    for name, entry in record.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry["bytes"]:
            found = "it is missing" if size is None else f"it has {size:,} bytes"
            raise DataError(f"{file} should have {entry['bytes']:,} bytes, but {found}. {_anew(folder)}")
    return record


def _parse_record(path: Path, value: Any) -> Record:
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise DataError(
            f"{path} has format {value['format']}, this version of cifar-trainer knows {FORMAT}. Upgrade "
            "cifar-trainer, or prepare the data anew with: cifar-trainer prepare --force"
        )
    try:
        train, test = (
            SplitSummary(
                images=int(value[split]["images"]),
                per_class=tuple(value[split]["per_class"]),
                fingerprint=str(value[split]["fingerprint"]),
                mean=tuple(value[split]["mean"]),
                std=tuple(value[split]["std"]),
            )
            for split in SPLITS
        )
        sums = {
            name: {"bytes": int(value["files"][name]["bytes"]), "sha256": str(value["files"][name]["sha256"])}
            for name in (f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels"))
        }
        classes = tuple(str(name) for name in value["classes"])
        return Record(
            dataset=str(value["dataset"]),
            source=str(value["source"]),
            verified=value["verified"] is True and is_cifar10(train.fingerprint, test.fingerprint),
            classes=classes,
            train=train,
            test=test,
            files=sums,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no record of a prepared dataset ({error!r}). {_anew(path.parent)}"
        ) from None


def load_dataset(data_dir: Path, name: str) -> Dataset:
    """The prepared dataset `name`, its files verified by their SHA-256.

    Args:
        data_dir: the folder of the prepared datasets.
        name: `cifar10` or `synthetic`.

    Returns:
        The dataset; its images are read-only memory maps.

    Raises:
        DataNotFoundError: it is not prepared.
        DataError: a file is missing, or has changed since it was prepared.
    """
    folder = data_dir / name
    record = read_record(folder)
    for file, entry in record.files.items():
        _check_unchanged(folder / file, entry["sha256"])
    splits = {}
    for split in SPLITS:
        images = _load_array(folder / f"{split}_images.npy", (None, 32, 32, 3))
        labels = _load_array(folder / f"{split}_labels.npy", (len(images),))
        sums = "".join(record.files[f"{split}_{kind}.npy"]["sha256"] for kind in ("images", "labels"))
        digest = files.sha256_bytes(sums.encode("ascii"))
        splits[split] = Split(images, labels, getattr(record, split).fingerprint, digest)
    return Dataset(name, folder, record.verified, record.classes, splits["train"], splits["test"])


def verify_dataset(data_dir: Path, name: str) -> None:
    """Check a prepared dataset to the bottom: each file's SHA-256, then both fingerprints.

    Raises:
        DataError: something is not as it was recorded.
    """
    dataset = load_dataset(data_dir, name)
    for split_name in SPLITS:
        split: Split = getattr(dataset, split_name)
        actual = fingerprint(split.images, split.labels)
        if actual != split.fingerprint:
            raise DataError(
                f"The {split_name} split in {dataset.folder} has the fingerprint {actual}, "
                f"its record says {split.fingerprint}. {_anew(dataset.folder)}"
            )


def _check_unchanged(path: Path, expected: str) -> None:
    try:
        actual = files.sha256_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {_anew(path.parent)}") from error
    if actual != expected:
        raise DataError(
            f"{path} has changed since it was prepared: its SHA-256 is {actual}, "
            f"expected {expected}. {_anew(path.parent)}"
        )


def _load_array(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no array: {error}. {_anew(path.parent)}") from error
    fits = len(array.shape) == len(shape) and all(
        e in (None, n) for e, n in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.uint8 or not fits:
        wanted = "×".join("N" if n is None else str(n) for n in shape)
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, expected uint8 {wanted}. {_anew(path.parent)}"
        )
    return array


def _anew(folder: Path) -> str:
    return (
        f"Prepare it anew with: cifar-trainer prepare --dataset {folder.name} "
        f"--data-dir {folder.parent} --force"
    )
