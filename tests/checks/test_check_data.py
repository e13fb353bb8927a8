"""`check data` on a few photographs that were made: what it writes, its exit codes, and the way back."""

import csv
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_here
from PIL import Image, ImageOps

from cifar_trainer import prepare
from cifar_trainer.checks import folds
from cifar_trainer.checks.data_report import for_spreadsheets
from cifar_trainer.checks.findings import find_simple
from cifar_trainer.data.check_record import read_check
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.store import load_dataset

#: Training and test images of each class.
TRAIN, TEST = 12, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders; test/red/0.png is a mirrored copy of train/red/0.png, train/blue/0.png shows red."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for channel, name in ((0, "red"), (2, "blue")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 90, (8, 8, 3), np.uint8)
                pixels[:, :, 0 if (split, name, i) == ("train", "blue", 0) else channel] += 150
                image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
                image.save(folder / split / name / f"{i}.png")
    ImageOps.mirror(Image.open(folder / "train/red/0.png")).save(folder / "test/red/0.png")
    return folder


@pytest.fixture(scope="module")
def checked(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The data folder, and the result of the command with --json."""
    data_dir = tmp_path_factory.mktemp("data")
    prepare("pets", data_dir, source=source)
    options = ["--dataset", "pets", "--data-dir", data_dir, "--allow", 0, "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds, "_EPOCHS", (15, 15))
        return data_dir, run_here(["check", "data", *options])


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_copy_across_the_splits_and_a_wrong_label_are_found(checked: tuple[Path, Any]) -> None:
    data_dir, done = checked
    assert done.exit_code == 4, done.output
    result = json.loads(done.stdout)
    numbers = [result[key] for key in ("images", "near_duplicates", "across_splits")]
    assert numbers == [2 * (TRAIN + TEST), 1, 1]
    assert {"across_splits", "near_duplicates", "label_suspects", "few_images"} == {
        finding["kind"] for finding in result["findings"]
    }
    folder = data_dir / "pets" / "check"
    assert [(row["group"], row["split"], row["file"]) for row in rows(folder / "groups.csv")] == [
        ("1", "train", "train/red/0.png"), ("1", "test", "test/red/0.png"),
    ]  # fmt: skip
    worst = rows(folder / "suspects.csv")[0]
    assert (worst["file"], worst["label"], worst["suggested"]) == ("train/blue/0.png", "blue", "red")


def test_the_page_shows_the_pictures_and_needs_no_other_file(checked: tuple[Path, Any]) -> None:
    page = (checked[0] / "pets" / "check" / "report.html").read_text()
    assert "train/blue/0.png" in page
    assert page.count('src="data:image/png') >= 3
    assert re.search(r"All labels that\s+may be wrong", page)
    assert 'src="http' not in page


def test_nothing_is_changed_and_the_check_of_test_labels_is_recorded(checked: tuple[Path, Any]) -> None:
    dataset = load_dataset(checked[0], "pets")
    record = read_check(dataset)
    assert record is not None
    (group,) = record.groups
    splits = {"train": dataset.train, "test": dataset.test}
    assert [splits[split].files[index] for split, index in group] == ["train/red/0.png", "test/red/0.png"]
    assert record.test_label_checks == 1


def test_the_files_correct_the_data_set(checked: tuple[Path, Any], source: Path, tmp_path: Path) -> None:
    """check, edit, prepare --relabel: the round trip of docs/check.md; the record of the old data is void."""
    folder = checked[0] / "pets" / "check"
    first = rows(folder / "suspects.csv")[0]
    edited = tmp_path / "corrections.csv"
    # As `check data` writes it for names that are not ASCII.
    table = for_spreadsheets(f"file,label,seen by\n{first['file']},{first['suggested']},Zoë\n")
    assert table.startswith("\ufeff")
    edited.write_text(table)
    prepare("pets", tmp_path, source=source, relabel=edited, keep_groups=folder / "groups.csv")
    corrected = load_dataset(tmp_path, "pets")
    label = corrected.train.labels[corrected.train.files.index(first["file"])]
    assert corrected.classes[label] == "red"
    assert read_check(corrected) is None


def test_no_network_predicts_an_image_or_a_copy_that_it_was_trained_on(
    checked: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(checked[0], "pets")
    images = np.array(dataset.train.images)
    images[20:] = images[:4]
    copied = dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, images=images))
    trained: list[set[int]] = []
    monkeypatch.setattr(folds, "_train", lambda loop, indices, *rest: trained.append(set(indices.tolist())))
    found = folds.predict_out_of_sample(copied, folds.settings(copied), gpu=False)
    left_out = [set(range(24)) - indices for indices in trained]
    assert sorted(index for part in left_out for index in part) == list(range(24))
    assert all({i, 20 + i} <= part or not {i, 20 + i} & part for part in left_out for i in range(4))
    np.testing.assert_allclose(found.train.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("count", "side", "epochs", "batch"),
    [(50_000, 32, 2, 500), (5000, 32, 20, 100), (300, 32, 40, 32), (8, 32, 40, 6), (1000, 256, 40, 7)],
)
def test_the_training_of_a_fold_is_bounded_and_a_step_fits_into_memory(
    checked: tuple[Path, Any], count: int, side: int, epochs: int, batch: int
) -> None:
    dataset = load_dataset(checked[0], "pets")
    train = Split(np.zeros((count, side, side, 3), np.uint8), np.zeros(count, np.uint8))
    settings = folds.settings(dataclasses.replace(dataset, train=train))
    assert (settings.epochs, settings.batch_size) == (epochs, batch)


def test_a_data_set_of_another_run_and_a_bad_number_are_refused(trained_run: Path) -> None:
    done = run_here(["check", "data", "--run", trained_run, "--dataset", "pets"])
    assert done.exit_code == 2
    assert "--dataset pets does not match" in done.stderr
    done = run_here(["check", "data", "--allow", "-1"])
    assert (done.exit_code, "--allow -1 is out of range" in done.stderr) == (2, True)


def test_classes_colours_sizes_and_brightness_are_judged_without_a_network(checked: tuple[Path, Any]) -> None:
    dataset = load_dataset(checked[0], "pets")
    draw = np.random.default_rng(0)
    bright = draw.integers(180, 256, (300, 8, 8, 3), np.uint8)
    dark = draw.integers(0, 80, (100, 8, 8, 3), np.uint8)
    dark[7] = 50
    labels = np.repeat([0, 1], [290, 10])
    # Photographs, upright ones too; one that is small, and one that is long.
    sizes = np.tile([[640, 480], [480, 640], [800, 600], [1000, 800]], (100, 1))
    sizes[5], sizes[390] = (64, 48), (2000, 150)
    splits = {
        "train": Split(bright, labels, sizes=sizes[:300]),
        "test": Split(dark, labels[-100:], sizes=sizes[300:]),
    }
    odd = dataclasses.replace(dataset, classes=("a", "b"), **splits)
    findings, images = find_simple(odd)
    kinds = ["imbalance", "few_images", "one_colour", "size", "brightness"]
    assert [finding.kind for finding in findings] == kinds
    found = {
        kind: {name: list(indices) for name, indices in by_split.items()} for kind, by_split in images.items()
    }
    assert found == {"one_colour": {"train": [], "test": [7]}, "size": {"train": [5], "test": [90]}}
    # Data sets that were prepared by an older version have no sizes.
    assert find_simple(dataset)[1]["size"] == {}
