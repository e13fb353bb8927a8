"""The folder of a prepared data set: written atomically, verified when read."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cifar_trainer import files
from cifar_trainer.data import DATASETS, find_spec
from cifar_trainer.data.dataset import Corrections, Dataset, Groups, ImageSet, Split, SplitSummary
from cifar_trainer.data.fingerprints import fingerprint
from cifar_trainer.data.mapped import parts
from cifar_trainer.data.samples import write_samples
from cifar_trainer.errors import DataError, DataNotFoundError, printable
from cifar_trainer.images import Preprocessing
from cifar_trainer.settings import DEFAULT_DATA_DIR

RECORD_NAME = "dataset.json"
FORMAT = 1
SPLITS = ("train", "test")
#: An upper bound for all files except arrays and file names.
_OTHER_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class FileRecord:
    """A file's size in bytes and its SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Record:
    """dataset.json: the content of the folder, and the SHA-256 of each file.

    Attributes:
        source: the source as given, without secrets.
        verified: whether it is verified to be the data set of this name.
        files: the arrays; `train_files.txt` and `test_files.txt` if the source had file names: one per line,
            relative to the source; `train_groups.npy` with --keep-groups; and `train_sizes.npy` and
            `test_sizes.npy` if the images' files differ in size.
        corrections, groups: what --relabel and --keep-groups did.
        conversions: the number of images by conversion (`images.CONVERSIONS`).
        notes: sentences about how the images were read.
        verified_by: `content` or `archive` as in `Dataset`; None if it is not verified.
        preprocessing: how image files were decoded; None in older records, which have `resize`.
        test_fraction, seed: how the test set was split off; None if the source had one, and in older records.
    """

    dataset: str
    source: str
    verified: bool
    classes: tuple[str, ...]
    train: SplitSummary
    test: SplitSummary
    files: dict[str, FileRecord]
    corrections: Corrections | None = None
    groups: Groups | None = None
    conversions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    verified_by: str | None = None
    preprocessing: Preprocessing | None = None
    resize: str = "stretch"
    test_fraction: float | None = None
    seed: int | None = None
    format: int = FORMAT

    @property
    def title(self) -> str:
        """The name in reports; the title of a known data set only if verified."""
        spec = DATASETS.get(self.dataset)
        return self.dataset if spec is None else spec.title_of(verified=self.verified)


def bytes_needed(images: int, shape: tuple[int, int, int]) -> int:
    """Disk space in bytes for a prepared folder with this number of images."""
    return images * (int(np.prod(shape)) + 10) + _OTHER_BYTES


def write_dataset(folder: Path, name: str, found: ImageSet, source: str) -> Record:
    """Write a prepared folder atomically, replacing an existing one.

    Args:
        folder: DATA_DIR/NAME.
        name: as in `--dataset`.
        found: the splits `train` and `test`.
        source: recorded in dataset.json.

    Raises:
        OSError: a write, flush or rename failed; the existing folder is unchanged.
    """
    with files.atomic_folder(folder, replace=True) as partial:
        summaries = {}
        for split_name, split in found.splits.items():
            _save(partial / f"{split_name}_images.npy", split.images)
            _save(partial / f"{split_name}_labels.npy", split.labels)
            if split.files:
                text = "".join(f"{printable(file)}\n" for file in split.files)
                (partial / f"{split_name}_files.txt").write_text(text, encoding="utf-8")
            if split.sizes is not None:
                _save(partial / f"{split_name}_sizes.npy", split.sizes)
            if split.groups is not None and split_name == "train":
                _save(partial / "train_groups.npy", split.groups)
            summaries[split_name] = summarize(split, len(found.classes))
        train, test = summaries["train"], summaries["test"]
        spec = DATASETS.get(name)
        verified_by = "archive" if spec is not None and found.published else None
        if spec is not None and spec.has_fingerprints(train.fingerprint, test.fingerprint):
            verified_by = "content"
        record = Record(
            dataset=name,
            source=source,
            verified=verified_by is not None,
            classes=found.classes,
            train=train,
            test=test,
            files={
                path.name: FileRecord(path.stat().st_size, files.sha256_file(path))
                for path in sorted(partial.iterdir())
            },
            corrections=found.corrections,
            groups=found.groups,
            conversions=dict(found.conversions),
            notes=found.notes,
            verified_by=verified_by,
            preprocessing=dataclasses.replace(
                found.preprocessing or Preprocessing(found.image_shape), image_shape=found.image_shape
            ),
            test_fraction=found.test_fraction,
            seed=found.seed,
        )
        write_samples(partial, found)
        files.write_json(partial / RECORD_NAME, dataclasses.asdict(record))
    return record


def _save(path: Path, array: np.ndarray) -> None:
    """Write an .npy file. numpy.save writes the same bytes, but loses the reason for a failed write."""
    # Make contiguous first, because the header records the memory order.
    ordered = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        header = np.lib.format.header_data_from_array_1_0(ordered)
        np.lib.format.write_array_header_1_0(file, header)
        for _, part in parts(ordered):
            file.write(part.data)


def summarize(split: Split, classes: int) -> SplitSummary:
    """Summarize a split. Sums are integers, so the results are the same on every machine."""
    images = split.images
    channels = images.shape[3]
    pixels = int(np.prod(images.shape[:3]))
    total, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    for _, chunk in parts(images):
        # Sum over the images first: NumPy is fast along long rows, slow along three channels.
        total += chunk.sum(0, dtype=np.int64).sum((0, 1))
        squares += np.square(chunk, dtype=np.uint16).sum(0, dtype=np.int64).sum((0, 1))
    variances = [
        (pixels * int(q) - int(t) * int(t)) / (pixels * pixels) for t, q in zip(total, squares, strict=True)
    ]
    return SplitSummary(
        images=len(images),
        per_class=tuple(np.bincount(split.labels, minlength=classes).tolist()),
        fingerprint=fingerprint(images, split.labels),
        mean=tuple(int(t) / pixels / 255 for t in total),
        std=tuple(variance**0.5 / 255 for variance in variances),
    )


def image_shape(folder: Path) -> tuple[int, int, int]:
    """Height, width and channels of prepared images."""
    height, width, channels = np.load(folder / "train_images.npy", mmap_mode="r").shape[1:]
    return height, width, channels


def list_prepared(data_dir: Path) -> list[str]:
    """The names of the data sets that are prepared in `data_dir`."""
    return sorted(path.parent.name for path in data_dir.glob(f"*/{RECORD_NAME}"))


def read_record(folder: Path) -> Record:
    """Read dataset.json, and check that each file in it exists and has the right size.

    Raises:
        DataNotFoundError: there is no dataset.json.
        DataError: it cannot be read, or a file is missing or has the wrong size.
    """
    path = folder / RECORD_NAME
    if not path.exists():
        more = "" if folder.name in DATASETS else " --source FOLDER"
        if folder.parent != DEFAULT_DATA_DIR:
            more += f" --data-dir {shlex.quote(str(folder.parent))}"
        if folder.name in DATASETS and folder.name != "synthetic":
            more += (
                " (or with --source PATH from a copy; or --dataset synthetic, drawn images that need no "
                "source)."
            )
        raise DataNotFoundError(
            f"No data is prepared in {folder}. Prepare it with: cifar-trainer prepare "
            f"--dataset {folder.name}{more}"
        )
    remedy = _remedy(folder)
    record = files.read_json(path, Record, error=DataError, remedy=remedy)
    if record.format > FORMAT:
        raise DataError(
            f"{path} has format {record.format}, but this version of cifar-trainer reads {FORMAT}. Upgrade "
            f"cifar-trainer, or prepare it again. {remedy}"
        )
    remedy = _remedy(folder, record)
    arrays = {f"{split}_{kind}.npy" for split in SPLITS for kind in ("images", "labels")}
    missing = arrays - set(record.files)
    if missing:
        raise DataError(f"{path} lacks the files {', '.join(sorted(missing))}. {remedy}")
    for name, expected in record.files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else None
        if size != expected.bytes:
            actual = "it is missing" if size is None else f"it has {size:,} bytes"
            raise DataError(f"{file} should have {expected.bytes:,} bytes, but {actual}. {remedy}")
    spec = DATASETS.get(record.dataset)
    proof = record.verified_by
    if spec is None or not record.verified:
        proof = None
    elif spec.fingerprints is not None:
        # Older records lack `verified_by`.
        holds = spec.has_fingerprints(record.train.fingerprint, record.test.fingerprint)
        proof = "content" if holds else None
    return dataclasses.replace(record, verified=proof is not None, verified_by=proof)


def _remedy(folder: Path, record: Record | None = None) -> str:
    source = shlex.quote(record.source) if record else "FOLDER"
    needed = "" if folder.name in DATASETS else f" --source {source}"
    if record and record.corrections:
        needed += f" --relabel {shlex.quote(record.corrections.file)}"
    if record and record.groups:
        needed += f" --keep-groups {shlex.quote(record.groups.file)}"
    return (
        f"Prepare it again with: cifar-trainer prepare --dataset {folder.name}{needed} "
        f"--data-dir {folder.parent} --force"
    )


def load_dataset(data_dir: Path, name: str) -> Dataset:
    """Load a prepared data set as read-only memory maps, after verifying the SHA-256 of each file.

    Raises:
        DataNotFoundError: it is not prepared.
        DataError: a file is missing, or has changed since it was prepared.
    """
    spec = find_spec(name)
    name = spec.name if spec and not (data_dir / name).exists() else name
    folder = data_dir / name
    record = read_record(folder)
    remedy = _remedy(folder, record)
    for file, expected in record.files.items():
        path = folder / file
        try:
            actual = files.sha256_file(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
        if actual != expected.sha256:
            raise DataError(
                f"{path} has changed since it was prepared: its SHA-256 is {actual}, "
                f"expected {expected.sha256}. {remedy}"
            )
    splits = {}
    for split in SPLITS:
        images, labels = (
            np.load(folder / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "labels")
        )
        names: list[str] = []
        if f"{split}_files.txt" in record.files:
            names = (folder / f"{split}_files.txt").read_text(encoding="utf-8").split("\n")[:-1]
        arrays = (f"{split}_{kind}.npy" for kind in ("images", "labels", "groups"))
        sums = "".join(record.files[file].sha256 for file in arrays if file in record.files)
        digest = files.sha256_bytes(sums.encode("ascii"))
        groups, sizes = (
            np.load(folder / f"{split}_{kind}.npy") if f"{split}_{kind}.npy" in record.files else None
            for kind in ("groups", "sizes")
        )
        splits[split] = Split(
            images, labels, getattr(record, split).fingerprint, digest, tuple(names), groups, sizes=sizes
        )
    return Dataset(
        name,
        folder,
        record.verified_by,
        record.classes,
        **splits,
        title=record.title,
        preprocessing=record.preprocessing or Preprocessing(splits["train"].image_shape, record.resize),
    )


def verify_dataset(data_dir: Path, name: str) -> None:
    """Verify every checksum of a prepared data set, then both fingerprints.

    Raises:
        DataError: a file or fingerprint differs from dataset.json.
    """
    dataset = load_dataset(data_dir, name)
    for split_name, split in (("train", dataset.train), ("test", dataset.test)):
        actual = fingerprint(split.images, split.labels)
        if actual != split.fingerprint:
            raise DataError(
                f"The {split_name} split in {dataset.folder} has the fingerprint {actual}, but its record "
                f"says {split.fingerprint}. {_remedy(dataset.folder)}"
            )
