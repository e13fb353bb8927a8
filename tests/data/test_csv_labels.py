"""Which image a row of a CSV file means, and what is done with several CSV files, or with other images."""

from pathlib import Path

import builders
import pytest
from builders import picture, write_folder

from cifar_trainer.errors import DataError


def table(rows: dict[str, str], head: str = "file,label") -> bytes:
    return "\n".join([head, *(f"{file},{label}" for file, label in rows.items())]).encode()


def labels(names: list[str]) -> dict[str, str]:
    return {name: ("cat", "dog")[index % 2] for index, name in enumerate(names)}


def files(path: Path, split: str = "train") -> set[str]:
    return set(builders.read(path, "own").splits[split].files)


@pytest.mark.parametrize("listed", ["{}.png", "{}", "/home/me/pets/{}.png"])
def test_an_image_beside_the_csv_file_is_not_its_namesake_in_a_folder(listed: str, tmp_path: Path) -> None:
    members = {f"{folder}{i}.png": picture(i + 50 * len(folder)) for folder in ("", "a/") for i in range(8)}
    rows = labels([listed.format(i) for i in range(8)])
    found = builders.read(write_folder(tmp_path, {**members, "labels.csv": table(rows)}), "own")
    assert {file for split in found.splits.values() for file in split.files} == {f"{i}.png" for i in range(8)}
    assert "Warning: 8 images left out, not listed in labels.csv." in found.notes


@pytest.mark.parametrize("row", ["x/9.png", "0.png"], ids=["in another folder", "in two folders"])
def test_a_row_that_may_mean_another_image_is_refused(row: str, tmp_path: Path) -> None:
    members = {f"{folder}/{i}.png": picture(i) for folder in ("a", "b") for i in range(4)}
    rows = labels(["a/1.png", "b/2.png", row])
    write_folder(tmp_path, {**members, "a/9.png": picture(9), "labels.csv": table(rows)})
    with pytest.raises(DataError, match=rf"are missing, or that several files may be: {row}"):
        builders.read(tmp_path, "own")


@pytest.mark.parametrize("name", ["{}.csv", "{}/metadata.csv"])
def test_several_csv_files_list_one_split_each(name: str, tmp_path: Path) -> None:
    names = {s: [f"{s}/{i}.png" for i in range(n)] for s, n in (("train", 6), ("test", 4))}
    members = {file: picture(i) for i, file in enumerate(names["train"] + names["test"])}
    tables = {name.format(split): table(labels(listed)) for split, listed in names.items()}
    write_folder(tmp_path, {**members, **tables})
    assert files(tmp_path) == set(names["train"])
    assert files(tmp_path, "test") == set(names["test"])


def test_csv_files_that_name_no_split_are_refused(tmp_path: Path) -> None:
    members = {f"{i}.png": picture(i) for i in range(8)}
    rows = labels(list(members))
    write_folder(tmp_path, {**members, "labels.csv": table(rows), "corrections.csv": table({"0.png": "dog"})})
    with pytest.raises(DataError, match=r"several CSV files that list images: corrections\.csv, labels\.csv"):
        builders.read(tmp_path, "own")


def test_a_file_of_groups_is_no_file_of_labels(tmp_path: Path) -> None:
    members = {f"{name}/{i}.png": picture(i + 9 * len(name)) for name in ("cat", "bird") for i in range(4)}
    groups = "\n".join(["group,file", *(f"g{i},{name}" for i, name in enumerate(members))])
    found = builders.read(write_folder(tmp_path, {**members, "groups.csv": groups.encode()}), "own")
    assert found.classes == ("bird", "cat")


def test_rows_without_a_label_are_refused(tmp_path: Path) -> None:
    members = {f"{i}.png": picture(i) for i in range(8)}
    rows = {**labels(list(members)), "3.png": " "}
    write_folder(tmp_path, {**members, "labels.csv": table(rows)})
    with pytest.raises(DataError, match=r"labels\.csv has 1 image without a label: 3\.png\."):
        builders.read(tmp_path, "own")
