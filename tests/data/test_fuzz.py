"""Damaged files of each kind, by Hypothesis: an array or one clear error comes out, and nothing else.

The suite draws the same few inputs each time; `make fuzz` draws many, and others each time.
"""

import csv
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import official
import pytest
import test_forms
from builders import Members
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cifar_trainer.data.arrays import load_idx
from cifar_trainer.data.unpickler import load_dictionary
from cifar_trainer.errors import DataError, UsageError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "12"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
#: Where, what, with which bytes, how many: one change of a file.
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["set", "insert", "delete", "copy", "cut"]),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x7f", b"../", b"\x00"]),
        ),
        st.integers(1, 300),
    ),
    min_size=1,
    max_size=5,
)
FEW = builders.class_folders(train=1, test=1)


def changed(content: bytes, changes: list[tuple[float, str, bytes, int]]) -> bytes:
    for place, kind, data, count in changes:
        at = int(place * len(content))
        match kind:
            case "set":
                content = content[:at] + data + content[at + len(data) :]
            case "insert":
                content = content[:at] + data + content[at:]
            case "delete":
                content = content[:at] + content[at + count :]
            case "copy":
                content = content[:at] + content[at : at + count] + content[at:]
            case "cut":
                content = content[:at]
    return content


def packed(name: str, write: Callable[[Path, Members], Path]) -> Callable[[Path], dict[str, bytes]]:
    return lambda folder: {name: write(folder / name, FEW).read_bytes()}


def npz(folder: Path) -> dict[str, bytes]:
    file = io.BytesIO()
    np.savez(file, **test_forms.arrays())  # type: ignore[arg-type]
    return {"a.npz": file.getvalue()}


def npy(folder: Path) -> dict[str, bytes]:
    found = {}
    for name, array in test_forms.arrays().items():
        file = io.BytesIO()
        np.save(file, array)
        found[f"{name}.npy"] = file.getvalue()
    return found


def mat(folder: Path) -> dict[str, bytes]:
    return {"a.mat": official.mat(test_forms.arrays())}


def parquet(folder: Path) -> dict[str, bytes]:
    images, labels = zip(*test_forms.records("train"), strict=True)
    path = builders.write_parquet(folder / "train.parquet", {"img": images, "label": labels})
    return {path.name: path.read_bytes()}


def tfrecord(folder: Path) -> dict[str, bytes]:
    path = builders.write_tfrecord(folder / "a-train.tfrecord-00000-of-00001", test_forms.records("train"))
    return {path.name: path.read_bytes()}


def table(folder: Path) -> dict[str, bytes]:
    text = io.StringIO()
    rows = [("file", "label", "split"), *((f"images/{i}.png", f"c{i % 2}", "train") for i in range(6))]
    csv.writer(text).writerows(rows)
    return {
        "labels.csv": text.getvalue().encode(),
        **{f"images/{i}.png": builders.picture(i) for i in range(6)},
    }


def image(kind: str, mode: str = "RGB") -> Callable[[Path], dict[str, bytes]]:
    name = f"train/airplane/0.{kind.lower()}"
    return lambda folder: {name: builders.picture(1, (20, 30), mode, kind), **FEW}


#: What makes the files of each kind: the first is the one that is damaged.
KINDS: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "zip": packed("a.zip", builders.write_zip),
    "tar": packed("a.tar", test_forms.ARCHIVES["cifar10.tar"]),
    "tar.gz": packed("a.tar.gz", builders.write_tar),
    "tar.bz2": packed("a.tar.bz2", test_forms.ARCHIVES["cifar10.tar.bz2"]),
    "tar.xz": packed("a.tar.xz", test_forms.ARCHIVES["cifar10.tar.xz"]),
    "tar.zst": packed("a.tar.zst", test_forms.ARCHIVES["cifar10.tar.zst"]),
    "7z": packed("a.7z", test_forms.ARCHIVES["cifar10.7z"]),
    "npz": npz,
    "npy": npy,
    "mat": mat,
    "parquet": parquet,
    "tfrecord": tfrecord,
    "csv": table,
    "PNG": image("PNG"),
    "PNG with a palette": image("PNG", "P"),
    "JPEG": image("JPEG"),
    "JPEG in CMYK": image("JPEG", "CMYK"),
    "WEBP": image("WEBP"),
    "BMP": image("BMP"),
    "GIF": image("GIF"),
    "TIFF": image("TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_images_or_one_error(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = KINDS[kind](tmp_path_factory.mktemp("whole"))
    first = next(iter(files))
    source = builders.write_folder(tmp_path_factory.mktemp("damaged"), files)

    @SETTINGS
    @given(CHANGES)
    def check(changes: list[tuple[float, str, bytes, int]]) -> None:
        (source / first).write_bytes(changed(files[first], changes))
        alone = source / first if len(files) == 1 else source
        try:
            raw = builders.read(alone, "mine", test_fraction=0.5, seed=0)
        except (DataError, UsageError) as error:
            assert str(error)
        else:
            assert raw.splits["train"].images.dtype == np.uint8
        assert {path.name for path in source.rglob("*") if path.is_file()} == {Path(n).name for n in files}

    check()


def test_a_damaged_pickle_gives_a_dictionary_or_one_error() -> None:
    batch = {b"data": np.zeros((4, 3072), np.uint8), b"labels": [1, 2, 3, 4], b"batch_label": b"a batch"}
    whole = [pickle.dumps(batch, protocol) for protocol in (0, 2, 4)] + [official.python_meta()]

    @SETTINGS
    @given(st.sampled_from(whole), CHANGES)
    def check(content: bytes, changes: list[tuple[float, str, bytes, int]]) -> None:
        damaged = changed(content, changes)
        try:
            load_dictionary(damaged, "batch")
        except DataError as error:
            assert str(error)

    check()


def test_a_damaged_idx_file_gives_an_array_or_one_error(tmp_path: Path) -> None:
    plain = bytes([0, 0, 8, 1, 0, 0, 0, 9, *range(9)])

    @SETTINGS
    @given(CHANGES)
    def check(changes: list[tuple[float, str, bytes, int]]) -> None:
        (tmp_path / "a").write_bytes(changed(plain, changes))
        try:
            assert load_idx(tmp_path / "a", "a").dtype == np.uint8
        except DataError as error:
            assert str(error)

    check()
