"""Each published data set is prepared from each of its forms, with the right labels, or refused by record."""

import dataclasses
import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import official
import pytest
from builders import Members, Refuse, write_folder, write_tar

from cifar_trainer.data import DATASETS, cifar10, unpickler
from cifar_trainer.data.dataset import Archive
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.store import load_dataset
from cifar_trainer.data.unpickler import load_dictionary
from cifar_trainer.errors import DataError
from cifar_trainer.files import sha256_file

PYTHON = "cifar-10-batches-py"
NINE = np.zeros(9, np.uint8)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    official.shrink(monkeypatch)


def test_the_published_versions_of_all_data_sets_are_tested() -> None:
    assert {name for name, *_ in official.VERSIONS} == {n for n, spec in DATASETS.items() if not spec.draw}


@pytest.mark.parametrize("form", official.FORMS)
@pytest.mark.parametrize(
    ("name", "version", "folder", "make"), official.VERSIONS, ids=[" ".join(v[:2]) for v in official.VERSIONS]
)
def test_each_published_version_is_prepared_from_each_form_with_the_right_labels(
    name: str, version: str, folder: str, make: Callable[[], Members], form: str, tmp_path: Path
) -> None:
    """Pixels that are stored by channel come out row by row, RGB interleaved; batches in their order."""
    source = official.FORMS[form](tmp_path, folder, make())
    prepare(name, tmp_path / "data", source=source)
    dataset = load_dataset(tmp_path / "data", name)
    assert dataset.classes == DATASETS[name].classes and not dataset.verified
    for split, expected in official.draw(name).items():
        found = getattr(dataset, split)
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)
        has_names = version == "Python"
        assert len(found.files) == (len(found) if has_names else 0)
        assert not has_names or found.files[:2] == ("image_0.png", "image_1.png")


def test_a_folder_of_several_data_sets_is_read_as_the_one_that_is_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path / PYTHON, official.cifar10_python())
    write_folder(tmp_path / "cifar-100-binary", official.cifar100_binary())
    write_folder(tmp_path / "FashionMNIST" / "raw", official.fashion_mnist_files())
    write_folder(tmp_path / "svhn", official.svhn_files())
    for name in ("cifar10", "cifar100", "cifar100-coarse", "fashion-mnist", "svhn"):
        found = builders.read(tmp_path, name)
        np.testing.assert_array_equal(found.splits["test"].labels, official.draw(name)["test"].labels)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cifar100", lambda path: official.as_tar(path, "cifar-100-python", official.cifar100_python())),
        ("fashion-mnist", lambda path: official.as_folder(path, "raw", official.fashion_mnist_packed())),
    ],
)
def test_data_from_the_published_archives_is_verified_by_their_sha256(
    name: str, make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make(tmp_path)
    files = [source] if source.is_file() else [source / archive.name for archive in DATASETS[name].archives]
    archives = tuple(Archive(file.name, file.stat().st_size, sha256_file(file)) for file in files)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], archives=archives))
    report = prepare(name, tmp_path / "data", source=source)
    assert (report.record.verified, report.record.verified_by) == (True, "archive")
    assert report.title == DATASETS[name].title
    assert load_dataset(tmp_path / "data", name).verified_by == "archive"
    corrections = tmp_path / "corrections.csv"
    corrections.write_text(f"split,index,label\ntrain,0,{report.record.classes[2]}")
    assert not prepare(
        name, tmp_path / "data", source=source, force=True, relabel=corrections
    ).record.verified
    files[0].write_bytes(files[0].read_bytes() + b"\0")
    report = prepare(name, tmp_path / "data", source=source, force=True)
    assert not report.record.verified
    assert report.title == f"{DATASETS[name].title}-shaped data (not verified)"


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_not_taken_for_fashion_mnist(packed: bool, tmp_path: Path) -> None:
    """The same file names and sizes: the labels tell them apart."""
    members = official.fashion_mnist_packed() if packed else official.fashion_mnist_files()
    digits = np.arange(200, dtype=np.uint8) % 10
    labels = official.idx(digits)
    members["train-labels-idx1-ubyte" + ".gz" * packed] = gzip.compress(labels) if packed else labels
    write_folder(tmp_path / "mnist", members)
    with pytest.raises(DataError, match=r"file names but different labels: .*--dataset mnist"):
        builders.read(tmp_path / "mnist", "fashion-mnist")
    found = builders.read(tmp_path / "mnist", "mnist")
    assert found.classes == tuple("0123456789") and found.image_shape == (28, 28, 1)
    np.testing.assert_array_equal(found.splits["train"].labels, digits)


@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
def test_pickles_of_any_protocol(protocol: int) -> None:
    _, images, labels = official.batches()[0]
    batch = load_dictionary(official.python_batch(images, labels.tolist(), protocol), "batch")
    assert batch["labels"] == labels.tolist()
    pixels = batch["data"].to_uint8((len(images), 3072))
    np.testing.assert_array_equal(pixels, official.by_channel(images))


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def with_batch(content: bytes) -> Members:
    return {**official.cifar10_python(), "data_batch_1": content}


def test_pickle_that_calls_os_system_is_refused_and_not_run(tmp_path: Path, refuse: Refuse) -> None:
    import os

    marker = tmp_path / "ran"
    content = pickle.dumps({b"data": Calls(os.system, f"touch {marker}")}, 2)
    archive = write_tar(tmp_path / "a.tar.gz", builders.under(PYTHON, with_batch(content)))
    refuse(archive, "data_batch_1 is refused", "posix.system", "None of it was run", command=True)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (pickle.dumps(Calls(eval, "1 + 1"), 2), "__builtin__.eval"),
        (pickle.dumps(Calls(eval, "1 + 1"), 5), "builtins.eval"),
        (pickle.dumps(Calls(np.load, "x"), 4), "numpy"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0ecore.os.system\x93.", "numpy.core.os.system"),
        (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
        (pickle.dumps({b"labels": np.arange(3)[0:1]}, 2)[:-1] + b"0cos\nsystem\n.", "os.system"),
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        # A table up to the largest number of a part: 64 GB for ten bytes.
        (b"}r\xff\xff\xff\xff0.", "it numbers a part 4,294,967,295, but has only 8 bytes"),
        # One text, encoded again and again.
        (
            b"\x80\x02c_codecs\nencode\nq\x00X" + (10_000).to_bytes(4, "little") + b"x" * 10_000
            + b"q\x01X\x06\x00\x00\x00latin1q\x02" + b"h\x00h\x01h\x02\x86R" * 100 + b".",
            "it unpacks to more bytes than it has",
        ),
        # bytes(3 GiB): an array of a number of zeros.
        (
            b"cnumpy.core.numeric\n_frombuffer\n(J\x00\x00\x00\x7fcnumpy\ndtype\n(Vu1\ntR(I3\ntVC\ntR.",
            "an array's content is a int, expected bytes",
        ),
        # Each byte makes an empty list.
        (b"]" * 11_000 + b".", "it has more than 10,000 parts"),
    ],
    ids=["numbers", "repeated text", "a number for bytes", "many parts"],
)  # fmt: skip
def test_a_pickle_cannot_make_the_reader_allocate_more_than_a_multiple_of_its_size(
    content: bytes, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    monkeypatch.setattr(unpickler, "_MAX_PARTS", 10_000)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=says):
            load_dictionary(content, "batch")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_numbers_of_thousands_of_digits_are_told_briefly(tmp_path: Path) -> None:
    digits = b"9" * 5000
    with pytest.raises(DataError, match="damaged pickle"):
        load_dictionary(b"}I" + digits + b"\nI1\ns.", "batch")
    content = small_batch(labels=[10**5000] * official.BATCH)
    with pytest.raises(DataError, match="record 0: the label is a number of many digits"):
        builders.read(write_folder(tmp_path, with_batch(content)))


def small_batch(**changes: object) -> bytes:
    _, images, labels = official.batches()[0]
    return pickle.dumps({"labels": labels.tolist(), "data": official.by_channel(images), **changes}, 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda: small_batch(labels=[0] * 7 + [10] + [0] * 12), "record 7: the label is 10, expected 0 to 9"),
        (lambda: small_batch(labels=[-1] * 20), "record 0: the label is -1, expected 0 to 9"),
        (lambda: small_batch(labels=["cat"] * 20), "record 0: the label is 'cat'"),
        (lambda: small_batch(labels=[0] * 19), "labels is 19 of them, expected a list of 20"),
        (lambda: small_batch(data=np.zeros((19, 3072), np.uint8)), "uint8 (20, 3072)"),
        (lambda: small_batch(data=np.zeros((10, 3072), np.float32)), "an array of f4 (10, 3072)"),
        (lambda: small_batch(data=None), "data is a NoneType"),
        (lambda: small_batch(fine_labels=[0]), "CIFAR-100"),
        (lambda: pickle.dumps({"labels": []}, 2), "lacks data"),
    ],
)
def test_python_batch_that_is_not_what_it_should_be(
    tmp_path: Path, content: Callable[[], bytes], says: str
) -> None:
    folder = write_folder(tmp_path / PYTHON, with_batch(content()))
    with pytest.raises(DataError) as caught:
        builders.read(folder)
    assert "data_batch_1" in str(caught.value) and says in str(caught.value)


def changed(members: Members, name: str, at: int, value: int) -> Members:
    content = bytearray(members[name])
    content[at] = value
    return {**members, name: bytes(content)}


@pytest.mark.parametrize(
    ("name", "members", "says"),
    [
        (
            "cifar10", lambda: changed(official.cifar10_binary(), "data_batch_2.bin", 3073 * 5, 10),
            "data_batch_2.bin, record 5: the label is 10, expected 0 to 9",
        ),
        (
            "cifar100", lambda: changed(official.cifar100_binary(), "test.bin", 3074 * 3 + 1, 100),
            "test.bin, record 3: the label is 100, expected 0 to 99",
        ),
        (
            "cifar100-coarse", lambda: changed(official.cifar100_binary(), "test.bin", 3074 * 3, 20),
            "test.bin, record 3: the label is 20, expected 0 to 19",
        ),
        (
            "fashion-mnist",
            lambda: changed(official.fashion_mnist_files(), "t10k-labels-idx1-ubyte", 8 + 50, 10),
            "t10k-labels-idx1-ubyte, record 50: the label is 10, expected 0 to 9",
        ),
        (
            "svhn", lambda: {**official.svhn_files(), "test_32x32.mat": official.mat(
                {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.array([1, 2, 0, 3])[:, None]})},
            "test_32x32.mat, record 2: the label is 0, expected 1 to 10",
        ),
        (
            "cifar10", lambda: {**official.cifar10_binary(), "data_batch_2.bin": bytes(3073 * 19)},
            "data_batch_2.bin has 58,387 bytes, expected 61,460: 20 records of 3,073",
        ),
        (
            "fashion-mnist",
            lambda: {**official.fashion_mnist_files(), "t10k-labels-idx1-ubyte": official.idx(NINE)},
            "contains an array (9,), expected (100,)",
        ),
    ],
)  # fmt: skip
def test_a_label_or_a_size_that_is_wrong_is_named_with_its_record(
    name: str, members: Callable[[], Members], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        builders.read(write_folder(tmp_path, members()), name)
    assert says in str(caught.value)


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_missing_and_unknown_members_are_listed(tmp_path: Path, suffix: str) -> None:
    names = [*(f"data_batch_{number}{suffix}" for number in range(1, 5)), "surprise.txt"]
    folder = write_folder(tmp_path / "folder", dict.fromkeys(names, b""))
    meta = "batches.meta.txt" if suffix else "batches.meta"
    says = f"lacks {meta}, data_batch_5{suffix}, test_batch{suffix} and contains surprise.txt"
    with pytest.raises(DataError, match=says.replace(".", r"\.")):
        builders.read(folder)


@pytest.mark.parametrize(
    "names",
    [["meta", "test", "train", "file.txt~"], ["train.bin", "test.bin", "fine_label_names.txt"]],
)
def test_cifar100_is_named(tmp_path: Path, refuse: Refuse, names: list[str]) -> None:
    path = write_tar(tmp_path / "a.tar.gz", builders.under("cifar-100", dict.fromkeys(names, b"x")))
    refuse(path, "contains CIFAR-100", "--dataset cifar10 asks for CIFAR-10", "prepare --dataset cifar100")


def test_a_file_larger_than_64_mib_in_an_archive_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CIFAR-100's training file has 154 MB."""
    images = 22_000
    monkeypatch.setattr(official, "SIZES", {"train": images, "test": 100})
    official.shrink(monkeypatch)
    content = np.zeros((images, 3074), np.uint8)
    content[:, 1] = np.arange(images) % 100
    members = {**official.cifar100_binary(), "train.bin": content.tobytes()}
    assert len(members["train.bin"]) > 64 << 20
    found = builders.read(official.as_tar(tmp_path, "cifar-100-binary", members), "cifar100")
    np.testing.assert_array_equal(found.splits["train"].labels, np.arange(images) % 100)


def test_the_names_of_the_classes_come_from_the_archive(tmp_path: Path) -> None:
    members = official.cifar10_binary()
    renamed = members["batches.meta.txt"].replace(b"automobile", b"car")
    assert "car" in builders.read(write_folder(tmp_path, {**members, "batches.meta.txt": renamed})).classes
    assert cifar10.CLASSES[1] == "automobile"
