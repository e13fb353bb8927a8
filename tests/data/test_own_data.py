"""A user's own images and arrays: odd files, names and labels, copies, and what `prepare` says about them."""

import dataclasses
import io
import os
import shutil
import tempfile
import tracemalloc
import unicodedata
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import official
import pytest
from bad_server import serve
from builders import Members, RunCli, picture, write_folder, write_zip
from PIL import Image

from cifar_trainer.data import mapped
from cifar_trainer.data.copies import find_originals
from cifar_trainer.data.dataset import ImageSet, Split
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.data.folder import Folder
from cifar_trainer.data.prepare import PreparedReport, prepare
from cifar_trainer.data.samples import write_samples
from cifar_trainer.data.splits import check_fit, holdout, split_for, stratified_part
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import DataError, UsageError
from cifar_trainer.settings import MAX_SIZE, MIN_SIZE, Settings


def pets(count: int = 4, classes: tuple[str, ...] = ("cat", "dog")) -> Members:
    """CLASS/NUMBER.png, all different."""
    return {
        f"{name}/{index}.png": picture(50 * label + index)
        for label, name in enumerate(classes)
        for index in range(count)
    }


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def arrays(path: Path, **members: np.ndarray) -> Path:
    np.savez(path, **members)  # type: ignore[arg-type]
    return path


def count(found: ImageSet) -> int:
    """The images of all splits."""
    return sum(map(len, found.splits.values()))


def prepared(tmp_path: Path, source: object, **options: object) -> tuple[PreparedReport, list[str]]:
    """What `prepare --dataset own` gives, and what it says."""
    said: list[str] = []
    reporter = PrepareReporter(note=said.append, warn=said.append)
    report = prepare("own", tmp_path / "data", source=str(source), reporter=reporter, **options)  # type: ignore[arg-type]
    return report, said


# Odd files


def test_a_broken_link_is_an_unreadable_image_which_can_be_skipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own", pets())
    (folder / "dog" / "x.png").symlink_to("/nowhere")
    with pytest.raises(DataError, match=r"dog/x\.png: No such file.*\n.*--skip-unreadable"):
        builders.read(folder, "own")
    assert count(builders.read(folder, "own", skip_unreadable=True)) == 8


def test_large_files_in_a_class_folder_are_read_or_listed_as_unreadable(tmp_path: Path) -> None:
    """A scan of 75 MB is an image; a film is not, and can be skipped."""
    folder = write_folder(tmp_path / "own", pets())
    Image.new("RGB", (5000, 5000)).save(folder / "cat" / "scan.bmp")
    with open(folder / "cat" / "clip.mp4", "wb") as film:
        film.truncate(100 << 20)
    with pytest.raises(DataError, match=r"1 image cannot be read:\n  \S*cat/clip\.mp4: it is not an image"):
        builders.read(folder, "own")
    assert count(builders.read(folder, "own", skip_unreadable=True)) == 9


def test_hidden_folders_are_skipped(tmp_path: Path) -> None:
    hidden = {"dog/.thumbnails/1.png": picture(9), ".venv/x/1.png": picture(8)}
    assert count(builders.read(write_folder(tmp_path / "own", {**pets(), **hidden}), "own")) == 8


@pytest.mark.parametrize("around", ["", "photos/2026/"])
def test_images_in_subfolders_of_a_class_belong_to_it(around: str, tmp_path: Path) -> None:
    for number, (name, data) in enumerate(pets().items()):
        write_folder(tmp_path, {around + name.replace("/", f"/camera{number % 2}/"): data})
    found = builders.read(tmp_path, "own")
    assert found.classes == ("cat", "dog") and count(found) == 8


def test_splits_may_be_inside_of_the_classes(tmp_path: Path) -> None:
    members = {name.replace("/", "/train/" if name[-5] != "3" else "/test/"): c for name, c in pets().items()}
    found = builders.read(write_folder(tmp_path, members), "own")
    assert found.classes == ("cat", "dog")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 6, "test": 2}


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_source_without_training_images_is_refused(split: str, tmp_path: Path) -> None:
    members = {f"{split}/{name}": content for name, content in pets().items()}
    with pytest.raises(DataError, match=r"has no training images, only those of (test|validation)\."):
        builders.read(write_folder(tmp_path, members), "own")


def test_a_source_of_unreadable_images_alone_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, dict.fromkeys(pets(), b"not an image"))
    with pytest.raises(DataError, match=r"lacks images for train/cat, train/dog"):
        builders.read(tmp_path, "own", skip_unreadable=True)


def test_unlabelled_test_images_are_named_with_a_way_out(tmp_path: Path) -> None:
    members = {f"train/{name}": content for name, content in pets().items()}
    members |= {f"test/{index}.png": picture(90 + index) for index in range(4)}
    with pytest.raises(DataError, match=r"4 images .*Move test/ out of the source, and add --test-fraction"):
        builders.read(write_folder(tmp_path, members), "own")


@pytest.mark.parametrize("head", ["file,label", "id,breed", "image,class,split"])
def test_a_csv_file_with_labels_is_read_whatever_its_two_columns_are_called(
    head: str, tmp_path: Path
) -> None:
    split = ",train" if "split" in head else ""
    rows = [f"{index},{'dog' if index % 2 else 'cat'}{split}" for index in range(8)]
    members = {f"images/{index}.png": picture(index) for index in range(8)}
    write_folder(tmp_path, {**members, "labels.csv": "\n".join([head, *rows]).encode()})
    found = builders.read(tmp_path, "own")
    assert found.classes == ("cat", "dog") and count(found) == 8


def test_the_name_of_each_image_is_kept_relative_to_the_source(tmp_path: Path) -> None:
    report, _ = prepared(tmp_path, write_zip(tmp_path / "own.zip", pets()), test_fraction=0.25)
    dataset = load_dataset(tmp_path / "data", "own")
    for split in (dataset.train, dataset.test):
        for image, label, name in zip(split.images, split.labels, split.files, strict=True):
            expected = np.asarray(Image.open(io.BytesIO(pets()[name])))
            np.testing.assert_array_equal(image, expected)
            assert name.startswith(dataset.classes[label])
    assert {"train_files.txt", "test_files.txt"} <= set(report.record.files)
    taken = dataset.train.take(np.array([3, 1]))
    assert taken.files == (dataset.train.files[3], dataset.train.files[1])
    names = report.folder / "test_files.txt"
    names.write_text(names.read_text().replace("cat", "dog"))
    with pytest.raises(DataError, match=r"test_files\.txt has changed"):
        load_dataset(tmp_path / "data", "own")


@pytest.mark.parametrize(
    ("dtype", "peak", "bits"), [("u2", 4095, 12), ("u2", 65_535, None), ("i4", 25_500, 16)], ids=str
)
def test_deep_grey_images_are_scaled_by_the_bits_that_the_set_uses(
    dtype: str, peak: int, bits: int | None, tmp_path: Path
) -> None:
    ramp = np.linspace(0, peak, 1024).reshape(32, 32)
    for index in range(8):
        path = tmp_path / "own" / ("cat", "dog")[index % 2] / f"{index}.{'tif' if dtype == 'i4' else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((ramp - index).clip(0, peak).astype(dtype)).save(path)
    _, said = prepared(tmp_path, tmp_path / "own")
    dataset = load_dataset(tmp_path / "data", "own")
    assert dataset.preprocessing.grey_bits == bits
    assert dataset.train.images.max() == (peak >> 8 if bits in (None, 16) else 255)
    assert any(f"as images of {bits} bits" in note for note in said) is (bits is not None)


# Names


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD")]
    members = {f"{form}/{n}.png": picture(10 * k + n) for k, form in enumerate(forms) for n in range(3)}
    members |= {f"Hund/{n}.png": picture(50 + n) for n in range(3)}
    found = builders.read(write_folder(tmp_path / "own", members), "own")
    assert found.classes == ("Hund", forms[0]) and count(found) == 9
    assert any("two Unicode forms" in note for note in found.notes)
    split = {
        f"{split}/{name}/0.png": picture(7 * number + (split == "test"))
        for split, form in (("train", forms[0]), ("test", forms[1]))
        for number, name in enumerate((form, "Hund"))
    }
    assert builders.read(write_folder(tmp_path / "split", split), "own").classes == ("Hund", forms[0])


def test_classes_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    members = pets(3, ("Cat", "cat", "dog"))
    found = builders.read(write_folder(tmp_path / "own", members), "own")
    assert any("differ only in upper and lower case: cat" in note for note in found.notes)
    train = {f"train/{name}": content for name, content in pets(1, ("Cat", "dog")).items()}
    test = {f"test/{name}/0.png": picture(90 + number) for number, name in enumerate(("cat", "dog"))}
    with pytest.raises(DataError, match=r"lacks images for train/cat\..* differ in upper and lower case"):
        builders.read(write_folder(tmp_path / "split", {**train, **test}), "own")


@pytest.mark.parametrize(("encoding", "told"), [("utf-8", False), ("gbk", True)])
def test_names_in_a_zip_that_does_not_flag_its_encoding(encoding: str, told: bool, tmp_path: Path) -> None:
    """Some programs write UTF-8 without saying so; others write what their system uses."""
    path = write_zip(tmp_path / "own.zip", pets(4, ("CATS", "DOGS")))
    content = path.read_bytes()
    for name, stand_in in (("猫", b"CATS"), ("狗", b"DOGS")):
        content = content.replace(stand_in, name.encode(encoding).ljust(4, b"_"))
    path.write_bytes(content)
    found = builders.read(path, "own")
    assert any("the encoding of its names" in note for note in found.notes) is told
    assert ("猫_" in found.classes) is not told


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR-10", "Cifar_10"])
def test_the_name_of_a_known_data_set_is_known_in_any_spelling(name: str, tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", builders.class_folders())
    report = prepare(name, tmp_path / "data", source=source)
    assert (report.record.dataset, report.folder.name) == ("cifar10", "cifar10")
    assert "not CIFAR-10" in report.title
    assert load_dataset(tmp_path / "data", name).name == "cifar10"


def test_a_typing_error_in_a_name_is_answered_with_what_is_prepared_too(tmp_path: Path) -> None:
    prepared(tmp_path, write_folder(tmp_path / "own", pets()))
    with pytest.raises(UsageError, match=r"Choose from cifar10.*or own.* Did you mean 'own'\?"):
        prepare("owm", tmp_path / "data")


def test_names_that_are_taken_for_those_of_a_known_data_set_are_told(tmp_path: Path) -> None:
    members = builders.class_folders()
    write_folder(tmp_path, {name.replace("/airplane/", "/01_plane/"): data for name, data in members.items()})
    found = builders.read(tmp_path)
    assert found.classes[0] == "airplane"
    assert "The folders are named after CIFAR-10's classes: 01_plane is airplane." in found.notes


def test_the_advice_for_a_damaged_own_data_set_can_be_followed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "own", pets())
    report, _ = prepared(tmp_path, source)
    os.truncate(report.folder / "test_images.npy", 100)
    with pytest.raises(DataError, match=rf"prepare --dataset own --source {source} --data-dir \S+ --force"):
        load_dataset(tmp_path / "data", "own")


# Copies


def test_the_holdout_of_a_set_without_copies_is_unchanged() -> None:
    images, labels = noise(500), (np.arange(500) * 7 % 10).astype(np.uint8)
    originals = find_originals(images)
    np.testing.assert_array_equal(originals, np.arange(500))
    np.testing.assert_array_equal(holdout(labels, 50, 3)[1], holdout(labels, 50, 3, originals)[1])
    one, other = stratified_part(labels, 0.2, 3), stratified_part(labels, 0.2, 3, originals)
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("copies", [2, 4, 9])
def test_all_copies_of_an_image_are_on_one_side_of_a_split(copies: int) -> None:
    images = np.repeat(noise(100), copies, 0)
    labels = np.repeat(np.arange(100) % 2, copies).astype(np.uint8)
    originals = find_originals(images)
    np.testing.assert_array_equal(originals, np.repeat(np.arange(100) * copies, copies))
    tenth = len(labels) // 10
    for rest, aside in (holdout(labels, tenth, 0, originals), stratified_part(labels, 0.1, 0, originals)):
        assert not set(originals[rest]) & set(originals[aside])
        assert tenth - 2 * copies <= len(aside) <= tenth
        np.testing.assert_array_equal(np.sort(np.concatenate([rest, aside])), np.arange(len(labels)))


def test_a_class_of_few_images_with_many_copies_has_images_on_both_sides() -> None:
    labels = np.repeat([0, 0, 1, 1], [30, 10, 1, 39]).astype(np.uint8)
    originals = np.repeat([0, 30, 40, 41], [30, 10, 1, 39])
    rest, aside = holdout(labels, 8, 0, originals)
    assert set(labels[rest]) == set(labels[aside]) == {0, 1}
    assert not set(originals[rest]) & set(originals[aside])


def test_prepare_tells_copies_and_contradicting_labels_and_a_run_splits_them_by_image(tmp_path: Path) -> None:
    images, labels = np.repeat(noise(40), 4, 0), np.repeat(np.arange(40) % 2, 4)
    labels[[3, 7]] = 1 - labels[[3, 7]]
    test = {"x_test": noise(10, 1), "y_test": np.arange(10) % 2}
    _, said = prepared(tmp_path, arrays(tmp_path / "a.npz", x_train=images, y_train=labels, **test))
    assert any(note.startswith("120 of 160 training images are copies of other images") for note in said)
    assert any(note.startswith("2 training images with two labels") for note in said)
    dataset = load_dataset(tmp_path / "data", "own")
    settings = Settings("tutorial", "own", 1, 8, 0.001, validation="holdout")
    indices, validation = split_for(dataset, settings)
    trained_on = {image.tobytes() for image in dataset.train.images[indices]}
    assert len(validation) and not trained_on & {image.tobytes() for image in validation.images}
    with pytest.raises(UsageError, match=f"the largest possible is {len(indices)}"):
        check_fit(dataset, dataclasses.replace(settings, limit=len(indices) + 1))


def test_a_test_fraction_splits_copies_by_image(tmp_path: Path) -> None:
    members = {f"{name[:-4]}-{copy}.png": c for name, c in pets(10).items() for copy in range(3)}
    found = builders.read(write_folder(tmp_path, members), "own", test_fraction=0.25)
    assert count(found) == 60, "none had to be dropped"
    train, test = ({image.tobytes() for image in found.splits[name].images} for name in ("train", "test"))
    assert test and not train & test


def test_a_class_under_two_names_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "own", pets(5))
    shutil.copytree(tmp_path / "own" / "cat", tmp_path / "own" / "bird")
    found = builders.read(tmp_path / "own", "own", test_fraction=0.2)
    assert any("4 training images with two labels" in n and "(bird and cat)" in n for n in found.notes)


# Labels and arrays


@pytest.mark.parametrize(
    ("labels", "classes", "note"),
    [
        (np.arange(20) % 10 + 1, tuple(map(str, range(1, 11))), "1 to 10"),
        (np.arange(20) % 10 * 3, tuple(map(str, range(0, 30, 3))), "10 numbers, 0 to 27"),
        ((np.arange(20) % 4 + 1)[None], ("1", "2", "3", "4"), "1 to 4"),
        (np.arange(20) % 4, ("0", "1", "2", "3"), ""),
        (np.array(["cat", "dog"] * 10), ("cat", "dog"), ""),
        (np.eye(4, dtype=np.uint8)[np.arange(20) % 4], ("0", "1", "2", "3"), ""),
    ],
    ids=["from 1", "with gaps", "in a row", "from 0", "names", "one-hot"],
)
def test_labels_of_any_numbers_or_names_are_classes(
    labels: np.ndarray, classes: tuple[str, ...], note: str, tmp_path: Path
) -> None:
    images = {"x_train": noise(20), "x_test": noise(20, 1)}
    found = builders.read(arrays(tmp_path / "a.npz", y_train=labels, y_test=labels, **images), "own")
    assert found.classes == classes
    first = [found.classes[label] for label in found.splits["train"].labels[:2]]
    assert first in ([str(value) for value in labels.ravel()[:2]], ["0", "1"])
    assert any(note in each for each in found.notes) if note else found.notes == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a | {"y_train": np.arange(20) - 1}, "the labels are -1 to 18, expected 0 to 999"),
        (lambda a: a | {"y_train": np.arange(20) / 2}, "the train labels are fractions"),
        (lambda a: a | {"y_train": np.array([{}] * 20, object)}, "contains Python objects"),
        (lambda a: a | {"y_train": np.arange(19)}, "has 19 labels for 20 images (train)"),
        (lambda a: a | {"x_train": noise(20)[:, :, :20]}, "are 32×20×3, expected 28 to 256 pixels a side"),
        (lambda a: a | {"train_images": noise(20)}, "contains two arrays for the same purpose"),
        (lambda a: a | {"x_train": noise(20) * 2.0}, "values from 0 to 510, expected 0 to 255, or 0 to 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], says: str, tmp_path: Path
) -> None:
    labels = np.arange(20) % 4
    whole = {"x_train": noise(20), "y_train": labels, "x_test": noise(20, 1), "y_test": labels}
    with pytest.raises(DataError) as caught:
        builders.read(arrays(tmp_path / "a.npz", **change(whole)), "own")
    assert says in str(caught.value)


@pytest.mark.parametrize("shape", [(300, 290, 3), (20, 30, 1)])
def test_size_and_resize_hold_for_arrays_too(shape: tuple[int, int, int], tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, *shape), np.uint8)
    source = arrays(tmp_path / "a.npz", images=images, labels=np.arange(8) % 2)
    with pytest.raises(DataError, match="Pass --size 32 to resize them"):
        builders.read(source, "own")
    report, _ = prepared(tmp_path, source, size=40, resize="fit")
    assert report.image_shape == (40, 40, shape[2]) and report.record.conversions == {"resized": 8}
    assert load_dataset(tmp_path / "data", "own").preprocessing.resize == "fit"


def test_options_that_differ_from_what_is_prepared_are_told(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "own", pets())
    prepared(tmp_path, source)
    _, said = prepared(tmp_path, source, size=40, resize="crop")
    assert [note.split(" was prepared ")[1] for note in said] == [
        "with images of 32×32 pixels, not with --size 40. To prepare it again, add --force.",
        "with --resize stretch, not crop. To prepare it again, add --force.",
    ]
    assert prepared(tmp_path, f"{source}/")[1] == []
    _, said = prepared(tmp_path, source, test_fraction=0.5, seed=7)
    assert "with --test-fraction 0.2 and --seed 0, not --test-fraction 0.5 and --seed 7." in said[0]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("own", "prepare --dataset own --source FOLDER --data-dir {}$"),
        ("synthetic", "prepare --dataset synthetic --data-dir {}$"),
    ],
)
def test_the_hint_for_data_that_are_not_prepared_names_their_folder(
    name: str, command: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=command.format(tmp_path)):
        load_dataset(tmp_path, name)


def test_images_of_an_unknown_split_are_never_dropped(tmp_path: Path) -> None:
    kept = {"images": noise(8), "labels": np.arange(8) % 2}
    tests = {"x_test": noise(4, 1), "y_test": np.arange(4) % 2}
    found = builders.read(arrays(tmp_path / "a.npz", **kept, **tests), "own")
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 8, "test": 4}
    train = {"x_train": noise(8, 2), "y_train": np.arange(8) % 2}
    with pytest.raises(DataError, match="8 images of an unknown split beside those of test, train"):
        builders.read(arrays(tmp_path / "b.npz", **kept, **tests, **train), "own")


def test_holdout_of_no_image_is_refused(tmp_path: Path) -> None:
    settings = Settings("tutorial", "own", 1, 1, 0.001, validation="holdout")
    prepared(tmp_path, write_folder(tmp_path / "own", pets()))
    with pytest.raises(UsageError, match="cannot set aside a tenth of these 6 training images"):
        check_fit(load_dataset(tmp_path / "data", "own"), settings)


def test_a_class_whose_images_are_all_unreadable_is_named_with_the_reason(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "own", {**pets(), "bird/0.png": b"junk", "bird/1.png": b"junk"})
    with pytest.raises(DataError, match=r"images for train/bird.*\n.*2 images cannot be read:\n.*bird/0"):
        builders.read(source, "own", skip_unreadable=True)


def test_fractions_are_scaled_alike_in_all_splits(tmp_path: Path) -> None:
    """The test set happens to be dark: its largest value is 1."""
    labels = np.arange(8) % 2
    bright = noise(8).astype(np.float32)
    dark = np.eye(32)[None, :, :, None] * np.linspace(0.1, 1, 8)[:, None, None, None] * np.ones(3)
    for scale in (1, 255):
        images = {"x_train": bright / scale, "x_test": dark / scale}
        found = builders.read(arrays(tmp_path / "a.npz", y_train=labels, y_test=labels, **images), "own")
        np.testing.assert_array_equal(found.splits["train"].images, noise(8))
        assert found.splits["test"].images.max() == 1


def test_a_matlab_file_with_labels_in_a_row_from_1_is_read(tmp_path: Path) -> None:
    labels = (np.arange(40) % 4 + 1)[None]
    (tmp_path / "own.mat").write_bytes(official.mat({"images": noise(40), "labels": labels}))
    assert builders.read(tmp_path / "own.mat", "own").classes == ("1", "2", "3", "4")


def test_a_matlab_file_of_version_7_3_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "own.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n")
    with pytest.raises(DataError, match=r"version 7\.3 .*save\(FILE, '-v7'\)"):
        builders.read(tmp_path / "own.mat", "own")


# Sources by their content


def write_table(path: Path, kind: str) -> Path:
    """A table of eight pets as a file of Parquet, or a file or a stream of Arrow."""
    images = [{"bytes": content, "path": name} for name, content in pets().items()]
    columns = {"image": images, "label": [name.split("/")[0] for name in pets()]}
    if kind == "parquet":
        return builders.write_parquet(path, columns)
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = pyarrow.table(columns)
    with getattr(pyarrow.ipc, f"new_{kind}")(str(path), table.schema) as writer:
        writer.write_table(table)
    return path


SINGLE_FILES: dict[str, Callable[[Path], object]] = {
    "parquet": lambda path: write_table(path, "parquet"),
    "arrow file": lambda path: write_table(path, "file"),
    "arrow stream": lambda path: write_table(path, "stream"),
    "npz": lambda path: arrays(path, images=noise(8), labels=np.arange(8) % 2).rename(path.with_suffix("")),
    "mat": lambda path: path.write_bytes(
        official.mat({"images": noise(8), "labels": np.arange(8)[:, None] % 2})
    ),
}


@pytest.mark.parametrize("kind", SINGLE_FILES)
def test_a_single_file_is_known_by_its_content_whatever_its_name_and_also_from_a_url(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / ("download.npz" if kind == "npz" else "download")
    SINGLE_FILES[kind](path)
    found = builders.read(tmp_path / "download", "own")
    assert len(found.classes) == 2 and count(found) == 8
    if kind in ("parquet", "arrow file", "arrow stream"):
        assert set(found.splits["train"].files) <= set(pets())
    with serve((tmp_path / "download").read_bytes()) as server:
        report, _ = prepared(tmp_path, f"{server.url}/whole")
    assert report.record.source == f"{server.url}/whole"
    assert list((tmp_path / "data" / "downloads").iterdir()) == []


# samples.png and samples/


def test_prepare_writes_ten_test_images_to_classify(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", builders.class_folders())
    report = prepare("cifar10", tmp_path / "data", source=source)
    dataset = load_dataset(tmp_path / "data", "cifar10")
    files = {path.name: np.asarray(Image.open(path)) for path in (report.folder / "samples").iterdir()}
    assert set(files) == {f"{name}.png" for name in dataset.classes}
    for label, name in enumerate(dataset.classes):
        first = np.flatnonzero(dataset.test.labels == label)[0]
        np.testing.assert_array_equal(files[f"{name}.png"], dataset.test.images[first])


def test_the_names_on_samples_png_are_letters_and_not_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name for which no font has letters is written as the class's number."""
    from cifar_trainer.data import samples

    drawn: list[str] = []
    legible = samples._legible
    monkeypatch.setattr(samples, "_legible", lambda *a: (drawn.append(legible(*a)[0]), legible(*a))[1])
    split = Split(noise(4), np.arange(4) % 2)
    write_samples(tmp_path, ImageSet(("Ägypten", "Ωμέγα", "\U00012000"), {"train": split, "test": split}))
    assert drawn == ["Ägypten", "Ωμέγα", "class 2"]


# The command


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_images_are_never_all_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Neither decoded, nor split, nor corrected, nor written: 12 or 4 MB of pixels."""
    monkeypatch.setattr(mapped, "PART_BYTES", 2**19)
    # Reading a file reserves as much as the largest image may have.
    monkeypatch.setattr(Folder.read, "__defaults__", (2**16,))
    for index in range(64):
        folder = tmp_path / "photos" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (256, 256), (index, 0, 0) if mode == "RGB" else index).save(folder / f"{index}.png")
    (tmp_path / "fix.csv").write_text("file,label\na/0.png,delete\n")
    prepared(tmp_path / "before", write_folder(tmp_path / "few", pets()))  # Imports what it needs.
    tracemalloc.start()
    try:
        report, _ = prepared(tmp_path, tmp_path / "photos", size=256, relabel=tmp_path / "fix.csv")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report.record.train.images + report.record.test.images, report.image_shape[0]) == (63, 256)
    assert peak < 3e6, peak


def test_help_lists_every_data_set_and_the_range_of_size(run_cli: RunCli) -> None:
    from cifar_trainer.data import DATASETS

    said = " ".join(run_cli(["prepare", "--help"]).stdout.split())
    assert all(name in said for name in DATASETS) and f"{MIN_SIZE} to {MAX_SIZE}" in said


def test_a_second_user_of_a_data_folder_can_add_a_data_set() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    # Not below tmp_path, which no other user can enter.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        source = write_zip(folder / "own.zip", pets())
        (folder / "data").mkdir()
        (folder / "data").chmod(0o2777)
        prepare("first", folder / "data", source=source)
        assert (folder / "data" / ".prepare.lock").stat().st_mode & 0o777 == 0o644
        os.seteuid(65534)
        try:
            prepare("second", folder / "data", source=source)
        finally:
            os.seteuid(0)
        assert load_dataset(folder / "data", "second").classes == ("cat", "dog")
    finally:
        shutil.rmtree(folder)
