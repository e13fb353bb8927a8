"""The official Python and binary versions: read as such, or refused by file and record."""

import pickle
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import Refuse, write_folder, write_tar

from cifar_trainer.data import cifar10
from cifar_trainer.data.cifar10 import CLASSES as CIFAR10_CLASSES
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.store import load_dataset
from cifar_trainer.data.unpickler import load_dictionary
from cifar_trainer.errors import DataError

PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"


@pytest.fixture(scope="module")
def binary_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("official") / BINARY, builders.official_binary())


def members_of(folder: Path) -> builders.Members:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_python_archive_is_read(tmp_path: Path) -> None:
    """Pixels stored by channel come out row by row, RGB interleaved; batches in their order."""
    source = write_tar(tmp_path / "a.zip", builders.under(PYTHON, builders.official_python()))
    images, labels = builders.official_arrays()
    raw = builders.read(source)
    assert raw.classes == CIFAR10_CLASSES
    np.testing.assert_array_equal(raw.splits["train"].images, images[:50_000])
    np.testing.assert_array_equal(raw.splits["train"].labels, labels[:50_000])
    np.testing.assert_array_equal(raw.splits["test"].images, images[50_000:])
    np.testing.assert_array_equal(raw.splits["test"].labels, labels[50_000:])


def test_binary_folder_is_prepared(binary_folder: Path, tmp_path: Path) -> None:
    report = prepare("cifar10", tmp_path, source=str(binary_folder))
    assert not report.record.verified and "not CIFAR-10" in report.title
    dataset = load_dataset(tmp_path, "cifar10")
    images, labels = builders.official_arrays()
    np.testing.assert_array_equal(dataset.train.images, images[:50_000])
    np.testing.assert_array_equal(dataset.train.labels, labels[:50_000])
    np.testing.assert_array_equal(dataset.test.images, images[50_000:])
    np.testing.assert_array_equal(dataset.test.labels, labels[50_000:])


@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
def test_pickles_of_any_protocol(protocol: int) -> None:
    images, labels = builders.official_arrays()
    content = builders.python_batch(images[:10], labels[:10].tolist(), protocol)
    batch = load_dictionary(content, "batch")
    assert batch["labels"] == labels[:10].tolist()
    np.testing.assert_array_equal(batch["data"].to_uint8((10, 3072)), builders.by_channel(images[:10]))


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def hostile_archive(path: Path, content: bytes) -> Path:
    members = dict.fromkeys([*builders.batch_names(), "batches.meta"], b"")
    return write_tar(path, builders.under(PYTHON, {**members, "data_batch_1": content}))


def test_pickle_that_calls_os_system_is_refused_and_not_run(tmp_path: Path, refuse: Refuse) -> None:
    import os

    marker = tmp_path / "ran"
    content = pickle.dumps({b"data": Calls(os.system, f"touch {marker}")}, 2)
    refuse(
        hostile_archive(tmp_path / "a.tar.gz", content), "data_batch_1 is refused", "posix.system", "Nothing"
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps(Calls(eval, "1 + 1"), 2), "__builtin__.eval"),
        (pickle.dumps(Calls(eval, "1 + 1"), 5), "builtins.eval"),
        (pickle.dumps(Calls(np.load, "x"), 4), "numpy"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0ecore.os.system\x93.", "numpy.core.os.system"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
        (
            pickle.dumps({b"labels": np.arange(3, dtype=object)[0:1]}, 2)[:-1] + b"0cos\nsystem\n.",
            "os.system",
        ),
    ],
)
def test_pickle_that_asks_for_another_name(content: bytes, name: str) -> None:
    with pytest.raises(DataError, match="is refused: its pickle asks for .*" + name.replace(".", r"\.")):
        load_dictionary(content, "batch")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02}q\x00(U",
        b"not a pickle at all",
        b"Pid\n.",
        b"cnumpy\ndtype\n}U\x06_buildcos\nb.",
        b"cnumpy\ndtype\n(dVx\nVy\nsb.",
        b"cnumpy\nndarray\n)R.",
        b"r\xff\xff\xff\xff.",
        pickle.dumps([1, 2], 2),
    ],
)
def test_damaged_pickle_is_a_data_error(content: bytes) -> None:
    with pytest.raises(DataError):
        load_dictionary(content, "batch")


def test_pickled_array_that_declares_a_huge_shape_allocates_nothing() -> None:
    content = (
        b"}Vdata\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\nttR(I1\n(I10\ntcnumpy\n"
        b"dtype\n(Vu1\ntRI00\nVx\ntbs."
    )
    assert load_dictionary(content, "batch")["data"].to_uint8((10,)) is None


def test_a_pickle_that_numbers_its_parts_in_billions_allocates_nothing() -> None:
    """Ten bytes would have the unpickler make a table of 64 GB."""
    with pytest.raises(DataError, match="it numbers a part 4,294,967,295, and has 8 bytes"):
        load_dictionary(b"}r\xff\xff\xff\xff0.", "batch")


def test_numbers_of_thousands_of_digits_are_told_briefly() -> None:
    digits = b"9" * 5000
    with pytest.raises(DataError, match="damaged pickle"):
        load_dictionary(b"}I" + digits + b"\nI1\ns.", "batch")
    content = pickle.dumps({b"labels": [10**5000] * 10_000, b"data": 1}, 2)
    labels = load_dictionary(content, "batch")["labels"]
    with pytest.raises(DataError, match="record 0: the label is a number of many digits"):
        cifar10._numbers(labels, "batch", "labels", 10_000, 10)


def small_batch(**changes: object) -> bytes:
    images, labels = builders.official_arrays()
    batch = {"labels": labels[:10_000].tolist(), "data": builders.by_channel(images[:10_000]), **changes}
    return pickle.dumps(batch, 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            lambda: small_batch(labels=[0] * 77 + [10] + [0] * 9922),
            "record 77: the label is 10, expected 0 to 9",
        ),
        (lambda: small_batch(labels=[-1] * 10_000), "record 0: the label is -1, expected 0 to 9"),
        (lambda: small_batch(labels=["cat"] * 10_000), "record 0: the label is 'cat'"),
        (lambda: small_batch(labels=[0] * 9_999), "labels is 9,999 of them, expected a list of 10,000"),
        (lambda: small_batch(data=np.zeros((9_999, 3072), np.uint8)), "uint8 (10000, 3072)"),
        (lambda: small_batch(data=np.zeros((10, 3072), np.float32)), "an array of f4 (10, 3072)"),
        (lambda: small_batch(data=None), "data is a NoneType"),
        (lambda: small_batch(fine_labels=[0]), "CIFAR-100"),
        (lambda: pickle.dumps({"labels": []}, 2), "lacks data"),
    ],
)
def test_python_batch_that_is_not_what_it_should_be(
    tmp_path: Path, content: Callable[[], bytes], says: str
) -> None:
    members = dict.fromkeys([*builders.batch_names(), "batches.meta"], b"")
    folder = write_folder(tmp_path / PYTHON, {**members, "data_batch_1": content()})
    with pytest.raises(DataError) as caught:
        builders.read(folder)
    assert "data_batch_1" in str(caught.value) and says in str(caught.value)


def test_label_of_ten(tmp_path: Path, refuse: Refuse, binary_folder: Path) -> None:
    members = members_of(binary_folder)
    batch = bytearray(members["data_batch_2.bin"])
    batch[3073 * 5] = 10
    write_folder(tmp_path / BINARY, {**members, "data_batch_2.bin": bytes(batch)})
    refuse(tmp_path / BINARY, "data_batch_2.bin, record 5", "label is 10, expected 0 to 9")


def test_batch_of_the_wrong_length(tmp_path: Path, refuse: Refuse) -> None:
    members = dict.fromkeys([*builders.batch_names(".bin"), "batches.meta.txt"], bytes(3073 * 9_999))
    folder = write_folder(tmp_path / BINARY, members)
    refuse(folder, "has 30,726,927 bytes, expected 30,730,000: 10,000 records of 3,073")


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_missing_and_unknown_members_are_listed(tmp_path: Path, suffix: str) -> None:
    names = [*builders.batch_names(suffix)[:4], "surprise.txt"]
    folder = write_folder(tmp_path / "folder", dict.fromkeys(names, b""))
    meta = "batches.meta.txt" if suffix else "batches.meta"
    says = f"lacks {meta}, data_batch_5{suffix}, test_batch{suffix} and holds surprise.txt"
    with pytest.raises(DataError, match=says.replace(".", r"\.")):
        builders.read(folder)


@pytest.mark.parametrize(
    "names",
    [["meta", "test", "train", "file.txt~"], ["train.bin", "test.bin", "fine_label_names.txt"]],
)
def test_cifar100_is_named(tmp_path: Path, refuse: Refuse, names: list[str]) -> None:
    path = write_tar(tmp_path / "a.tar.gz", builders.under("cifar-100", dict.fromkeys(names, b"x")))
    refuse(path, "holds CIFAR-100", "--dataset cifar10 asks for CIFAR-10", "prepare --dataset cifar100")
