"""The prepared folder: four arrays, dataset.json, samples.png; written whole, verified when read."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar_trainer import files
from cifar_trainer.data import DATASETS
from cifar_trainer.data.dataset import Dataset, RawDataset, Split, SplitSummary
from cifar_trainer.data.fingerprints import fingerprint
from cifar_trainer.errors import DataError, DataNotFoundError

RECORD_NAME = "dataset.json"
FORMAT = 1
SPLITS = ("train", "test")
ARRAYS = tuple(f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels"))
#: samples.png and dataset.json; the arrays' size is known exactly.
_OTHER_BYTES = 1 << 20
_CHUNK = 1_000


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """What is known of a file.

    Attributes:
        bytes: its size.
        sha256: of its content, in hexadecimal.
    """

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Record:
    """dataset.json: what lies in the folder, and the SHA-256 of each array's file.

    Attributes:
        dataset: as in `--dataset`.
        source: what it was made from.
        verified: the fingerprints are those of the data set of this name.
        classes: the names, by label.
        train, test: the splits in figures.
        files: what is known of each .npy.
        conversions: how many images were changed, by what (`images.CONVERSIONS`).
        notes: what the user was told about how they were read.
        resize: how images of another size were resized.
        format: of this file.
    """

    dataset: str
    source: str
    verified: bool
    classes: tuple[str, ...]
    train: SplitSummary
    test: SplitSummary
    files: dict[str, FileRecord]
    conversions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    resize: str = "stretch"
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def title(self) -> str:
        """What to call it: never by the title of a data set unless its fingerprints hold."""
        spec = DATASETS.get(self.dataset)
        return self.dataset if spec is None else spec.title_of(verified=self.verified)


def bytes_needed(images: int, shape: tuple[int, int, int]) -> int:
    """Bytes that a prepared folder of so many images takes on the disk."""
    return images * (int(np.prod(shape)) + 2) + _OTHER_BYTES


def write_dataset(folder: Path, name: str, raw: RawDataset, source: str) -> Record:
    """Write the prepared folder; it appears whole, in the place of one that was there.

    Raises:
        OSError: a write, a flush or a rename failed; the folder is as it was.
    """
    with files.atomic_folder(folder, replace=True) as partial:
        sums: dict[str, FileRecord] = {}
        summaries = {}
        for split in SPLITS:
            images, labels = raw.split(split)
            for kind, array in (("images", images), ("labels", labels)):
                path = partial / f"{split}_{kind}.npy"
                _save(path, array)
                sums[path.name] = FileRecord(path.stat().st_size, files.sha256_file(path))
            summaries[split] = summarize(images, labels, len(raw.classes))
        train, test = summaries["train"], summaries["test"]
        spec = DATASETS.get(name)
        verified = spec is not None and spec.is_verified(train.fingerprint, test.fingerprint)
        record = Record(
            name,
            source,
            verified,
            raw.classes,
            train,
            test,
            sums,
            dict(raw.conversions),
            raw.notes,
            raw.resize,
        )
        write_samples(partial / "samples.png", raw.train_images, raw.train_labels, raw.classes)
        files.write_json(partial / RECORD_NAME, record.to_json())
    return record


def _save(path: Path, array: np.ndarray) -> None:
    """Write an .npy file. numpy.save writes the same, but forgets why a write failed."""
    # The header says in which order the bytes lie: it must be that of what is written.
    ordered = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(ordered)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(ordered.data)


def summarize(images: np.ndarray, labels: np.ndarray, classes: int) -> SplitSummary:
    """The figures of a split; sums are taken in whole numbers, so they are the same everywhere."""
    channels = images.shape[3]
    pixels = int(np.prod(images.shape[:3]))
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        # Over the images first: NumPy adds up long rows, not three channels at a time.
        total += chunk.sum(0, dtype=np.int64).sum((0, 1))
        squares += np.square(chunk, dtype=np.uint16).sum(0, dtype=np.int64).sum((0, 1))
    mean = [int(t) / pixels / 255 for t in total]
    variance = [
        (pixels * int(q) - int(t) * int(t)) / (pixels * pixels) for t, q in zip(total, squares, strict=True)
    ]
    return SplitSummary(
        images=len(images),
        per_class=tuple(int(n) for n in np.bincount(labels, minlength=classes)),
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
    if not path.exists():
        raise DataNotFoundError(_not_prepared(folder))
    found = files.read_json(path, _Format, error=DataError, remedy=_anew(folder))
    if found.format > FORMAT:
        raise DataError(
            f"{path} has format {found.format}, this version of cifar-trainer knows {FORMAT}. Upgrade "
            "cifar-trainer, or prepare the data anew with: cifar-trainer prepare --force"
        )
    record = files.read_json(path, Record, error=DataError, remedy=_anew(folder))
    missing = set(ARRAYS) - set(record.files)
    if missing:
        raise DataError(f"{path} lacks the files {', '.join(sorted(missing))}. {_anew(folder)}")
    for name in ARRAYS:
        expected, file = record.files[name].bytes, folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != expected:
            actual = "it is missing" if size is None else f"it has {size:,} bytes"
            raise DataError(f"{file} should have {expected:,} bytes, but {actual}. {_anew(folder)}")
    spec = DATASETS.get(record.dataset)
    holds = spec is not None and spec.is_verified(record.train.fingerprint, record.test.fingerprint)
    return dataclasses.replace(record, verified=record.verified and holds)


@dataclasses.dataclass(frozen=True)
class _Format:
    format: int


def _not_prepared(folder: Path) -> str:
    if folder.name in DATASETS:
        return (
            f"No data is prepared in {folder}. Prepare it with: cifar-trainer prepare "
            f"--dataset {folder.name} (or with --source PATH from a copy; or --dataset synthetic, drawn "
            "images that need no source)."
        )
    return (
        f"No data is prepared in {folder}. Prepare it with: cifar-trainer prepare "
        f"--dataset {folder.name} --source FOLDER"
    )


def load_dataset(data_dir: Path, name: str) -> Dataset:
    """The prepared data set `name`, its files verified by their SHA-256.

    Args:
        data_dir: the folder of the prepared data sets.
        name: as in `--dataset`.

    Returns:
        The data set; its images are read-only memory maps.

    Raises:
        DataNotFoundError: it is not prepared.
        DataError: a file is missing, or has changed since it was prepared.
    """
    folder = data_dir / name
    record = read_record(folder)
    for file in ARRAYS:
        _check_unchanged(folder / file, record.files[file].sha256)
    splits = {}
    for split in SPLITS:
        images = _load_array(folder / f"{split}_images.npy", 4)
        labels = _load_array(folder / f"{split}_labels.npy", 1)
        if len(labels) != len(images):
            raise DataError(
                f"{folder} holds {len(images):,} {split} images and {len(labels):,} labels. {_anew(folder)}"
            )
        sums = "".join(record.files[f"{split}_{kind}.npy"].sha256 for kind in ("images", "labels"))
        digest = files.sha256_bytes(sums.encode("ascii"))
        splits[split] = Split(images, labels, getattr(record, split).fingerprint, digest)
    return Dataset(
        name,
        folder,
        record.verified,
        record.classes,
        splits["train"],
        splits["test"],
        record.title,
        record.resize,
    )


def verify_dataset(data_dir: Path, name: str) -> None:
    """Check a prepared data set to the bottom: each file's SHA-256, then both fingerprints.

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


def _load_array(path: Path, dimensions: int) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no array: {error}. {_anew(path.parent)}") from error
    kinds = (np.uint8,) if dimensions == 4 else (np.uint8, np.uint16)
    if array.dtype not in kinds or array.ndim != dimensions or array.shape[3:] not in ((), (1,), (3,)):
        wanted = "N×height×width×channels" if dimensions == 4 else "N"
        raise DataError(
            f"{path} holds {array.dtype} {array.shape}, expected uint8 {wanted}. {_anew(path.parent)}"
        )
    return array


def _anew(folder: Path) -> str:
    return (
        f"Prepare it anew with: cifar-trainer prepare --dataset {folder.name} "
        f"--data-dir {folder.parent} --force"
    )


# samples.png

#: Images of each class, and classes at most: a sheet of a thousand would be of no use.
PER_CLASS, MAX_ROWS = 10, 100
_TILE = 64
_GAP = 4
_LABEL_WIDTH = 112
_MARGIN = 12


def write_samples(path: Path, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> None:
    """Draw the first ten training images of each class, a row a class, with its name.

    Args:
        path: where the PNG goes.
        images: uint8 [N, H, W, C].
        labels: [N].
        classes: the names, by label; of more than MAX_ROWS, the first ones.
    """
    step = _TILE + _GAP
    width = _LABEL_WIDTH + PER_CLASS * step - _GAP + 2 * _MARGIN
    height = min(len(classes), MAX_ROWS) * step - _GAP + 2 * _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=16)
    for label, name in enumerate(classes[:MAX_ROWS]):
        top = _MARGIN + label * step
        draw.text((_MARGIN, top + _TILE // 2), _abbreviated(name), fill="#222222", font=font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(labels == label)[:PER_CLASS]):
            image = images[index][..., 0] if images.shape[3] == 1 else images[index]
            tile = Image.fromarray(image).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + _LABEL_WIDTH + column * step, top))
    with files.atomic_writer(path) as file:
        sheet.save(file, format="PNG")


def _abbreviated(name: str) -> str:
    """A class's name as far as the column holds it."""
    short = "".join(c if c.isprintable() else "?" for c in name)
    return short if len(short) <= 12 else short[:11] + "…"
