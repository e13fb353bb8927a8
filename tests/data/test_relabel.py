"""`prepare --relabel` corrects labels, and `prepare --keep-groups` keeps images on one side of each split."""

import hashlib
import json
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import picture, write_folder

from cifar_trainer.cli.prepare import format_report
from cifar_trainer.data import synthetic
from cifar_trainer.data.copies import find_originals
from cifar_trainer.data.download import PrepareReporter
from cifar_trainer.data.prepare import PreparedReport, prepare
from cifar_trainer.data.splits import split_for
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import DataError
from cifar_trainer.settings import Settings

SPLITS = (("train", 8), ("test", 4))
IMAGES = {
    f"{split}/{name}/{index}.png": picture(100 * (split == "test") + 50 * label + index)
    for split, count in SPLITS
    for label, name in enumerate(("cat", "dog"))
    for index in range(count)
}


def arrays(folder: Path) -> Path:
    """The same images without names."""
    found = builders.read(write_folder(folder / "images", IMAGES), "own")
    members = {f"x_{name}": split.images for name, split in found.splits.items()}
    members |= {f"y_{name}": split.labels for name, split in found.splits.items()}
    np.savez(folder / "own.npz", **members)  # type: ignore[arg-type]
    return folder / "own.npz"


def labels_csv(folder: Path) -> Path:
    """The same images, each with its label in a CSV file."""
    rows = [f"{name},{name.split('/')[1]},{name.split('/')[0]}" for name in IMAGES]
    table = "\n".join(["file,label,split", *rows]).encode()
    return write_folder(folder / "table", {**IMAGES, "labels.csv": table})


SOURCES = {
    "folder": lambda folder: write_folder(folder / "images", IMAGES),
    "archive": lambda folder: builders.write_zip(folder / "own.zip", IMAGES),
    "csv": labels_csv,
    "arrays": arrays,
}


def run(folder: Path, source: Path, table: str | bytes | None = None, **options: object) -> PreparedReport:
    """`prepare --dataset own --relabel` with a file of these rows."""
    if table is not None:
        options["relabel"] = folder / "corrections.csv"
        (folder / "corrections.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return prepare("own", folder / "data", source=source, **options)  # type: ignore[arg-type]


def test_the_size_of_each_file_stays_with_its_image(tmp_path: Path) -> None:
    """Whatever is split off or deleted; `check data` reads them. Files of one size need no list."""
    sizes = {f"{name}/{index}.png": (40 + index, 30) for name in ("cat", "dog") for index in range(6)}
    members = {name: picture(9 * i, size) for i, (name, size) in enumerate(sizes.items())}
    source = write_folder(tmp_path / "own", members)
    run(tmp_path, source, "file,label\ncat/1.png,delete\n", test_fraction=0.5)
    dataset = load_dataset(tmp_path / "data", "own")
    for split in (dataset.train, dataset.test):
        assert split.sizes is not None
        assert [tuple(size) for size in split.sizes.tolist()] == [sizes[name] for name in split.files]
    run(tmp_path, SOURCES["folder"](tmp_path), force=True)
    assert load_dataset(tmp_path / "data", "own").train.sizes is None


@pytest.mark.parametrize("kind", SOURCES)
def test_relabel_changes_labels_and_deletes_images_of_any_source(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path)
    run(tmp_path, source)
    before = load_dataset(tmp_path / "data", "own")
    wrong, extra = (int(np.flatnonzero(before.train.labels == label)[0]) for label in (0, 1))
    last = int(np.flatnonzero(before.test.labels == 0)[-1])
    cat, dog = before.classes
    files = {"train": before.train.files or [""] * 99, "test": before.test.files or [""] * 99}
    rows = [("train", wrong, dog), ("train", extra, "delete"), ("test", last, cat)]
    lines = [f"{split},{index},{files[split][index]},{label}" for split, index, label in rows]
    table = "\n".join(["split,index,file,label", *lines])
    report = run(tmp_path, source, table, force=True)
    after = load_dataset(tmp_path / "data", "own")
    labels = before.train.labels.copy()
    labels[wrong] = 1
    np.testing.assert_array_equal(after.train.labels, np.delete(labels, extra))
    np.testing.assert_array_equal(after.train.images, np.delete(before.train.images, extra, 0))
    np.testing.assert_array_equal(after.test.labels, before.test.labels)
    assert after.train.files == tuple(n for i, n in enumerate(before.train.files) if i != extra)
    assert after.train.fingerprint != before.train.fingerprint
    expected = {"file": str(tmp_path / "corrections.csv"), "relabelled": 1, "deleted": 1}
    expected["sha256"] = hashlib.sha256(table.encode()).hexdigest()
    assert report.to_json()["corrections"] == expected
    assert json.loads((report.folder / "dataset.json").read_text())["corrections"] == expected
    assert "1 label changed, 1 image deleted" in format_report(report, checked=False)


def test_an_index_counts_the_test_images_that_are_not_training_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    images[8] = images[3]
    labels = np.arange(12) % 2
    source = tmp_path / "own.npz"
    np.savez(source, x_train=images[:8], y_train=labels[:8], x_test=images[8:], y_test=labels[8:])
    run(tmp_path, source, "split,index,label\ntest,0,delete")
    np.testing.assert_array_equal(load_dataset(tmp_path / "data", "own").test.images, images[10:])


HEADER = "expected a header with the columns file (or split and index) and label"


@pytest.mark.parametrize(
    ("table", "says"),
    [
        pytest.param("", f"starts with '', {HEADER}", id="empty"),
        pytest.param("train/cat/0.png,dog", HEADER, id="no header"),
        pytest.param("file,class\na,b", f"starts with 'file, class', {HEADER}", id="no label"),
        pytest.param("file,label\ntrain/cat/0.png,dog,x", "line 2: 3 columns, expected 2", id="comma"),
        pytest.param("file,label\nno.png,dog", "are not in the data set: line 2 (no.png)", id="file"),
        pytest.param("split,index,label\ntrain,16,dog", "line 2 (train 16)", id="index"),
        pytest.param("file,label\nCAT,\nDOG,bird", "unknown labels: line 2 (CAT): '', line 3", id="label"),
        pytest.param("file,label\nCAT,dog\n\nCAT,dog", "twice: line 2 (CAT): dog, and line 4", id="twice"),
        pytest.param("file,label\nCAT,dog\nCAT,delete", "delete. Keep one row per image", id="conflict"),
        pytest.param(
            "file,label\n" + "".join(f"test/cat/{index}.png,delete\n" for index in range(4)),
            "lacks images for test/cat", id="no image left",
        ),
        pytest.param("file,label\n\xff,dog".encode("latin-1"), "is not a CSV file", id="not text"),
    ],
)  # fmt: skip
def test_a_correction_that_does_not_fit_gets_one_error_and_changes_nothing(
    table: str | bytes, says: str, tmp_path: Path
) -> None:
    if isinstance(table, str):
        table = table.replace("CAT", "train/cat/0.png").replace("DOG", "train/dog/0.png")
        says = says.replace("CAT", "train/cat/0.png")
    source = write_folder(tmp_path / "images", IMAGES)
    run(tmp_path, source)
    before = builders.snapshot(tmp_path / "data")
    with pytest.raises(DataError) as caught:
        run(tmp_path, source, table, force=True)
    assert says in str(caught.value)
    assert builders.snapshot(tmp_path / "data") == before


def test_a_spreadsheet_s_file_is_read_and_rows_with_the_old_label_change_nothing(tmp_path: Path) -> None:
    """Semicolons, a byte order mark, an apostrophe against formulas, other columns, rows without content."""
    rows = [
        "File;Label;suggested",
        "train/cat/0.png;dog;dog",
        "train/cat/1.png;cat;dog",
        "'=1.png;dog;",
        ";;",
    ]
    table = "\r\n".join(rows).encode("utf-8-sig")
    members = {name.replace("train/cat/2", "=1"): data for name, data in IMAGES.items()}
    labels = "\n".join(
        ["file,label", *(f"{name},{name.split('/')[1] if '/' in name else 'cat'}" for name in members)]
    )
    source = write_folder(tmp_path / "images", {**members, "labels.csv": labels.encode()})
    report = run(tmp_path, source, table)
    assert report.record.corrections is not None
    assert (report.record.corrections.relabelled, report.record.corrections.deleted) == (2, 0)


def test_prepare_says_that_its_corrections_differ_from_those_of_what_is_prepared(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", IMAGES)
    said: list[str] = []
    reporter = PrepareReporter(warn=said.append)
    run(tmp_path, source, "file,label\ntrain/cat/0.png,dog", reporter=reporter)
    run(tmp_path, source, "file,label\ntrain/cat/0.png,dog", reporter=reporter)
    assert said == []
    run(tmp_path, source, reporter=reporter)
    run(tmp_path, source, "file,label\ntrain/cat/1.png,dog", reporter=reporter)
    prepare("own", tmp_path / "data", reporter=reporter)
    assert len(said) == 2
    assert "was prepared with --relabel " in said[0] and "not without it. To prepare it again" in said[0]
    assert "not with " in said[1] and said[1].count("SHA-256") == 2


def test_a_contradiction_that_is_corrected_is_not_reported(tmp_path: Path) -> None:
    copy = {"train/dog/copy.png": IMAGES["train/cat/0.png"]}
    source = write_folder(tmp_path / "images", {**IMAGES, **copy})
    assert any("two labels" in note for note in run(tmp_path, source).record.notes)
    report = run(tmp_path, source, "file,label\ntrain/dog/copy.png,delete", force=True)
    assert report.record.notes == ()


def test_corrections_name_images_without_files_by_their_index_and_groups_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "TRAIN_IMAGES", 100)
    monkeypatch.setattr(synthetic, "TEST_IMAGES", 20)
    (tmp_path / "c.csv").write_text("split,index,label\ntest,0,disc")
    (tmp_path / "g.csv").write_text("group,file\n1,a.png")
    with pytest.raises(DataError, match="this source has none"):
        prepare("synthetic", tmp_path / "data", keep_groups=tmp_path / "g.csv")
    prepare("synthetic", tmp_path / "data", relabel=tmp_path / "c.csv")
    assert load_dataset(tmp_path / "data", "synthetic").test.labels[0] == 4


# Groups


def test_images_that_copies_and_groups_connect_belong_together() -> None:
    images = np.arange(10, dtype=np.uint8).repeat(4).reshape(10, 2, 2, 1)
    images[7] = images[2]
    groups = np.array([-1, 5, 5, -1, 3, -1, -1, 9, 9, 3])
    np.testing.assert_array_equal(find_originals(images, groups=groups), [0, 1, 1, 3, 4, 5, 6, 1, 1, 4])


def test_the_images_of_a_group_are_on_one_side_of_the_test_split_and_of_the_holdout(tmp_path: Path) -> None:
    names = [f"{name}/{index}.png" for name in ("cat", "dog") for index in range(60)]
    source = write_folder(tmp_path / "images", {name: picture(number) for number, name in enumerate(names)})
    group = {name: int(name[4:-4]) // 3 + 100 * (name[0] == "d") for name in names}
    table = "\n".join(["group,split,file", *(f"{group[name]},train,{name}" for name in names)])
    (tmp_path / "groups.csv").write_text(table)
    report = run(tmp_path, source, keep_groups=tmp_path / "groups.csv", test_fraction=0.25)
    assert report.to_json()["groups"] | {"sha256": "", "file": ""} == {
        "file": "", "sha256": "", "groups": 40, "images": 120,
    }  # fmt: skip
    dataset = load_dataset(tmp_path / "data", "own")
    settings = Settings("tutorial", "own", 1, 8, 0.001, validation="holdout")
    indices, validation = split_for(dataset, settings)
    parts = (dataset.train.take(indices), validation, dataset.test)
    in_parts = [{group[name] for name in part.files} for part in parts]
    assert [len(part) for part in parts] == [84, 6, 30]
    assert sum(map(len, in_parts)) == 40, "no group is in two parts"
    # For a run, the same images with other groups are other data.
    run(tmp_path, source, test_fraction=0.25, force=True)
    assert dataset.train.sha256 != load_dataset(tmp_path / "data", "own").train.sha256


def test_test_images_in_a_group_with_training_images_are_left_out(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "images", IMAGES)
    rows = ["1,train/cat/0.png", "1,test/cat/0.png", "2,test/dog/0.png", "2,test/dog/1.png"]
    (tmp_path / "groups.csv").write_text("\n".join(["group,file", *rows]))
    report = run(tmp_path, source, keep_groups=tmp_path / "groups.csv")
    (tmp_path / "groups.csv").write_text("group,file\n,train/cat/0.png")
    with pytest.raises(DataError, match=r"rows without a group: line 2 \(train/cat/0\.png\)"):
        run(tmp_path, source, keep_groups=tmp_path / "groups.csv", force=True)
    assert "test/cat/0.png" not in load_dataset(tmp_path / "data", "own").test.files
    assert (report.record.train.images, report.record.test.images) == (16, 7)
    assert report.record.notes == ("1 test image left out of the test set: grouped with training images.",)
