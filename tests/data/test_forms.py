"""CIFAR-10 in each form in which people have it: the same images, labels and classes come out."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import official
import pytest
from builders import Members
from PIL import Image

from cifar_trainer.data import DATASETS, unpack
from cifar_trainer.data.cifar10 import CLASSES
from cifar_trainer.data.dataset import ImageSet
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.data.fingerprints import fingerprints_of
from cifar_trainer.data.prepare import prepare
from cifar_trainer.errors import DataError

#: Three images of each class, in the plainest form.
PLAIN = builders.class_folders()


def content(raw: ImageSet) -> list[tuple[str, str, bytes]]:
    """Each image with its split and the name of its class, in an order of their own."""
    return sorted(
        (name, raw.classes[label], image.tobytes())
        for name, split in raw.splits.items()
        for image, label in zip(split.images, split.labels, strict=True)
    )


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str, bytes]]:
    return content(builders.read(builders.write_folder(tmp_path_factory.mktemp("plain"), PLAIN)))


def renamed(change: Callable[[str, str, str], str]) -> Members:
    return {change(*name.split("/")): data for name, data in PLAIN.items()}


def arrays() -> dict[str, np.ndarray]:
    """x_train, y_train, x_test and y_test."""
    found: dict[str, list[object]] = {"x_train": [], "y_train": [], "x_test": [], "y_test": []}
    for name, data in PLAIN.items():
        split, label, _ = name.split("/")
        found[f"x_{split}"].append(np.asarray(Image.open(io.BytesIO(data))))
        found[f"y_{split}"].append([CLASSES.index(label)])
    return {name: np.array(values, np.uint8) for name, values in found.items()}


def records(split: str) -> list[tuple[bytes, int]]:
    """The encoded images of a split, and their labels."""
    named = [(name.split("/"), data) for name, data in PLAIN.items()]
    return [(data, CLASSES.index(label)) for (part, label, _), data in named if part == split]


SHORT_NAMES = {"airplane": "plane", "automobile": "car"}
#: Other names and places of the folders.
LAYOUTS: dict[str, Members] = {
    "numbered classes": renamed(lambda s, c, f: f"{s}/{CLASSES.index(c)}_{c}/{f}"),
    "capitals": renamed(lambda s, c, f: f"{s}/{c.title()}/{f}"),
    "PyTorch's tutorial": renamed(lambda s, c, f: f"{s}/{SHORT_NAMES.get(c, c)}/{f}"),
    **{
        f"{name} for test": {path.replace("test/", f"{name}/"): data for path, data in PLAIN.items()}
        for name in ("val", "valid", "validation")
    },
    "Train and Test": renamed(lambda s, c, f: f"{s.title()}/{c}/{f}"),
    "training and testing": renamed(lambda s, c, f: f"{s}ing/{c}/{f}"),
    "Roboflow's export": {**PLAIN, "README.roboflow.txt": b"Exported", "README.dataset.txt": b"CIFAR"},
    "a folder around it": builders.under("CIFAR-10-images-master", PLAIN),
    "two folders around it": builders.under("archive/cifar10", PLAIN),
    "fast.ai's archive": {**builders.under("cifar10", PLAIN), "cifar10/labels.txt": b"airplane\n"},
    "what others leave": {
        **PLAIN, "__MACOSX/train/airplane/._0.png": b"x", ".DS_Store": b"x", "train/Thumbs.db": b"x",
        "__pycache__/a.pyc": b"x", "train/.ipynb_checkpoints/0.png": b"x", ".git/HEAD": b"x",
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_folders_under_other_names_are_the_same_images(
    layout: str, packed: bool, expected: object, tmp_path: Path
) -> None:
    write = builders.write_zip if packed else builders.write_folder
    assert content(builders.read(write(tmp_path / "source.zip", LAYOUTS[layout]))) == expected


def test_a_validation_part_beside_a_test_set_is_added_to_the_training_images(
    expected: object, tmp_path: Path
) -> None:
    members = {
        name.replace("train/", "valid/") if name.endswith("/0.png") else name: data
        for name, data in PLAIN.items()
    }
    assert content(builders.read(builders.write_folder(tmp_path, members))) == expected


def test_classes_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    members = renamed(lambda s, c, f: f"{s}/{CLASSES.index(c) + 1}/{f}")
    raw = builders.read(builders.write_folder(tmp_path, members))
    assert raw.classes == tuple(map(str, range(1, 11)))


def test_back_slashes_in_a_zip_separate_folders(expected: object, tmp_path: Path) -> None:
    members = {name.replace("/", "\\"): data for name, data in PLAIN.items()}
    assert content(builders.read(builders.write_zip(tmp_path / "windows.zip", members))) == expected


def test_a_folder_without_a_split_is_split_by_class_and_seed(tmp_path: Path) -> None:
    members = renamed(lambda s, c, f: f"{c}/{s}-{f}")
    raw = builders.read(builders.write_folder(tmp_path, members), test_fraction=0.34, seed=1)
    assert np.bincount(raw.splits["test"].labels).tolist() == [1] * 10
    assert np.bincount(raw.splits["train"].labels).tolist() == [2] * 10


def write_7z(path: Path, members: Members) -> Path:
    py7zr = pytest.importorskip("py7zr", reason="py7zr is not installed")
    with py7zr.SevenZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(data, name)
    return path


def write_zst(path: Path, members: Members) -> Path:
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    plain = builders.write_tar(path.with_suffix(""), members, mode="w")
    path.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    return path


ARCHIVES: dict[str, Callable[[Path, Members], Path]] = {
    "cifar10.tgz": builders.write_tar,
    "cifar10.tar.bz2": lambda path, members: builders.write_tar(path, members, mode="w:bz2"),
    "cifar10.tar.xz": lambda path, members: builders.write_tar(path, members, mode="w:xz"),
    "cifar10.tar": lambda path, members: builders.write_tar(path, members, mode="w"),
    "cifar10.tar.zst": write_zst,
    "cifar10.7z": write_7z,
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_each_kind_of_archive_is_read(name: str, expected: object, tmp_path: Path) -> None:
    assert content(builders.read(ARCHIVES[name](tmp_path / name, PLAIN))) == expected


@pytest.mark.parametrize("name", ["cifar10.tar.zst", "cifar10.7z"])
def test_an_archive_whose_package_is_missing_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ARCHIVES[name](tmp_path / name, PLAIN)
    for package in ("py7zr", "zstandard"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(DataError, match="pip install"):
        builders.read(path)


def test_an_npz_of_x_and_y_is_read(expected: object, tmp_path: Path) -> None:
    np.savez(tmp_path / "cifar10.npz", **arrays())  # type: ignore[arg-type]
    assert content(builders.read(tmp_path / "cifar10.npz")) == expected


@pytest.mark.parametrize("label", [1000, 10**18])
def test_a_label_beyond_all_classes_is_refused(label: int, tmp_path: Path) -> None:
    """It was once taken for the number of the classes, and their names filled the memory."""
    found = arrays()
    found["y_train"] = found["y_train"].astype(np.int64)
    found["y_train"][3] = label
    np.savez(tmp_path / "mine.npz", **found)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"lacks images for test/{label}\."):
        builders.read(tmp_path / "mine.npz", "mine")


def test_pairs_of_npy_are_read(expected: object, tmp_path: Path) -> None:
    for name, array in arrays().items():
        np.save(tmp_path / f"{name}.npy", array)
    assert content(builders.read(tmp_path)) == expected


def test_an_npy_whose_header_does_not_end_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x_train.npy", arrays()["x_train"])
    content = (tmp_path / "x_train.npy").read_bytes()
    (tmp_path / "x_train.npy").write_bytes(content.replace(b"}", b"(", 1))
    with pytest.raises(DataError, match="is not an array"):
        builders.read(tmp_path)


@pytest.mark.parametrize("whole", [True, False], ids=["an .npz", "the first bytes of one"])
def test_an_npy_that_is_an_npz_is_refused(whole: bool, tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez(file, np.zeros(3))
    (tmp_path / "x_train.npy").write_bytes(file.getvalue() if whole else file.getvalue()[:40])
    with pytest.raises(DataError, match=r"x_train\.npy (cannot be read|: the images|has no arrays)"):
        builders.read(tmp_path, "mine")


def test_a_file_of_no_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar10-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(DataError, match="not a data set in a known format"):
        builders.read(tmp_path)


@pytest.mark.parametrize("name", ["plain_text/{}-00000-of-00001.parquet", "default/{}/0000.parquet"])
@pytest.mark.parametrize("nested", [True, False], ids=["bytes in a struct", "bytes"])
def test_hugging_faces_parquet_files_are_read(
    nested: bool, name: str, expected: object, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        rows = records(split)
        images = [{"bytes": data, "path": "0.png"} if nested else data for data, _ in rows]
        path = tmp_path / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        builders.write_parquet(path, {"img": images, "label": [label for _, label in rows]})
    (tmp_path / "README.md").write_text("---\n")
    assert content(builders.read(tmp_path)) == expected


def test_a_parquet_file_with_a_column_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = builders.write_parquet(tmp_path / "train.parquet", {"image": [b""], "label": [0]})
    path.write_bytes(path.read_bytes().replace(b"label", b"\x80abel"))
    with pytest.raises(DataError, match="is damaged"):
        builders.read(path, "mine")


def test_a_parquet_file_that_repeats_an_image_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"image": [records("train")[0][0]] * 5000, "label": [0, 1] * 2500}
    path = builders.write_parquet(tmp_path / "train.parquet", columns)
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(unpack, "MAX_BYTES", 1 << 20)
    with pytest.raises(DataError, match="contains more than 341 images, too many for its size"):
        builders.read(path, "mine", test_fraction=0.5, seed=0)


def test_tensorflow_datasets_records_are_read(expected: object, tmp_path: Path) -> None:
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        builders.write_tfrecord(folder / f"cifar10-{split}.tfrecord-00000-of-00001", records(split))
    (folder / "label.labels.txt").write_text("\n".join([*CLASSES, ""]))
    (folder / "dataset_info.json").write_text("{}")
    assert content(builders.read(folder)) == expected
    assert content(builders.read(tmp_path / "cifar10")) == expected
    for split in ("train", "test"):
        (folder / f"cifar10-{split}.tfrecord-00000-of-00001").rename(folder / split)
    assert content(builders.read(folder)) == expected, "its checksum tells what it is"
    (folder / "label.labels.txt").write_text("\n".join(["great dane", *CLASSES[1:], ""]))
    assert builders.read(folder, "mine").classes == ("great dane", *CLASSES[1:])


def kaggle_competition() -> Members:
    """train/1.png and so on, and trainLabels.csv; the labels of the test images are not public."""
    train = [(name.split("/")[1], data) for name, data in PLAIN.items() if name.startswith("train/")]
    images = {f"train/{number}.png": data for number, (_, data) in enumerate(train, 1)}
    lines = ["id,label", *(f"{number},{label}" for number, (label, _) in enumerate(train, 1))]
    sample = b"id,label\n1,cat\n"
    return {**images, "trainLabels.csv": "\n".join(lines).encode(), "sampleSubmission.csv": sample}


def test_kaggles_competition_is_split_and_says_that_its_test_labels_are_not_public(tmp_path: Path) -> None:
    source = builders.write_folder(tmp_path, kaggle_competition())
    with pytest.raises(DataError, match="does not publish the labels"):
        builders.read(source)
    raw = builders.read(source, test_fraction=0.5, seed=0)
    assert raw.classes == CLASSES
    assert (len(raw.splits["train"].images), len(raw.splits["test"].images)) == (10, 10)


def test_kaggles_competition_is_read_from_its_packed_images(tmp_path: Path) -> None:
    members = kaggle_competition()
    images = {name: data for name, data in members.items() if name.endswith(".png")}
    write_7z(tmp_path / "train.7z", images)
    builders.write_folder(tmp_path, {k: v for k, v in members.items() if k not in images})
    raw = builders.read(tmp_path, test_fraction=0.5, seed=0)
    assert (len(raw.splits["train"].images), len(raw.splits["test"].images)) == (10, 10)


# CIFAR-10 where other programs keep it


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    official.shrink(monkeypatch)


def check_official(found: ImageSet) -> None:
    for name, split in official.draw("cifar10").items():
        np.testing.assert_array_equal(found.splits[name].images, split.images)
        np.testing.assert_array_equal(found.splits[name].labels, split.labels)


@pytest.mark.usefixtures("small")
def test_torchvisions_root_has_the_archive_beside_its_folder(tmp_path: Path) -> None:
    inner = official.as_folder(tmp_path, "cifar-10-batches-py", official.cifar10_python())
    (inner / "__pycache__").mkdir()
    (inner / "__pycache__" / "loader.pyc").write_bytes(b"x")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not even read")
    check_official(builders.read(tmp_path))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["cifar-10-batches-py-target", "cifar-10-batches-py_archive"])
def test_keras_cache_is_read_from_its_parent_too(name: str, tmp_path: Path) -> None:
    cache = tmp_path / "datasets"
    cache.mkdir()
    if name.endswith("target"):
        official.as_folder(cache / name, "cifar-10-batches-py", official.cifar10_python())
    else:
        archive = official.as_tar(tmp_path, "cifar-10-batches-py", official.cifar10_python())
        (cache / name).symlink_to(archive)
    (cache / "imdb.npz").write_bytes(b"x")
    check_official(builders.read(cache if name.endswith("target") else cache / name))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's empty home folder, which is the current one too."""
    for variable in ("KERAS_HOME", "HF_HOME", "HF_HUB_CACHE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("small")
def test_prepare_looks_into_caches_before_it_downloads(home: Path) -> None:
    """The images are not CIFAR-10's, so the cache is not used, with a note; nor is a broken link."""
    keras = home / ".keras" / "datasets"
    official.as_folder(keras / "cifar-10-batches-py-target", "cifar-10-batches-py", official.cifar10_python())
    snapshots = home / ".cache" / "huggingface" / "hub" / "datasets--uoft-cs--cifar10" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / "removed").symlink_to("../blobs/removed")
    notes: list[str] = []
    with pytest.raises(DataError, match="--offline forbids"):
        prepare("cifar10", home / "data", offline=True, reporter=PrepareReporter(note=notes.append))
    assert [note.split()[0] for note in notes] == [str(keras / "cifar-10-batches-py-target")]


@pytest.mark.usefixtures("small")
def test_a_cache_that_holds_the_data_set_is_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = official.as_folder(home / "data", "cifar-10-batches-py", official.cifar10_python())
    known = fingerprints_of(builders.read(source))
    spec = dataclasses.replace(DATASETS["cifar10"], fingerprints=known)
    monkeypatch.setitem(DATASETS, "cifar10", spec)
    report = prepare("cifar10", home / "prepared", offline=True)
    assert report.record.verified_by == "content" and report.record.source == "data/cifar-10-batches-py"
