"""`prepare`: what it writes and says, and what it makes of files that changed since."""

import json
import os
import shutil
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import RunCli
from command_line import run_command, run_python
from PIL import Image

from cifar_trainer.data.cifar10 import FINGERPRINTS
from cifar_trainer.data.prepare import prepare
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import DataError, DataNotFoundError

NAMES = "train_images.npy train_labels.npy test_images.npy test_labels.npy dataset.json samples.png"
FILES = {*NAMES.split(), "train_files.txt", "test_files.txt", "samples"}


def test_files_and_json_of_the_contract(run_cli: RunCli, small_source: Path, tmp_path: Path) -> None:
    done = run_cli(["prepare", "--source", small_source, "--data-dir", tmp_path, "--json"])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    keys = "dataset data_dir source verified verified_by classes image_shape conversions"
    assert list(result) == [*keys.split(), "corrections", "groups", "train", "test"]
    for split, images in (("train", 20), ("test", 10)):
        assert list(result[split]) == ["images", "per_class", "fingerprint", "mean", "std"]
        assert result[split]["images"] == images and result[split]["per_class"] == [images // 10] * 10
        stored = np.load(tmp_path / f"cifar10/{split}_images.npy") / 255
        np.testing.assert_allclose(result[split]["mean"], stored.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(result[split]["std"], stored.std((0, 1, 2)), rtol=1e-12)
    assert result["dataset"] == "cifar10" and result["verified"] is False
    assert {path.name for path in (tmp_path / "cifar10").iterdir()} == FILES
    record = json.loads((tmp_path / "cifar10/dataset.json").read_text())
    assert record["train"] == result["train"] and record["classes"][0] == "airplane"
    with Image.open(tmp_path / "cifar10/samples.png") as samples:
        assert samples.width > 600


def test_what_is_prepared_already_answers_at_once(
    run_cli: RunCli, prepared: Path, small_source: Path
) -> None:
    """Without reading a source: here there is none."""
    before = builders.snapshot(prepared)
    done = run_cli(["prepare", "--data-dir", prepared, "--offline"])
    assert done.returncode == 0, done.stderr
    assert "prepared already" in done.stdout and "\x1b" not in done.stdout + done.stderr
    assert builders.snapshot(prepared) == before


def test_a_secret_in_an_address_is_neither_told_nor_taken_for_another_source(
    run_cli: RunCli, prepared: Path
) -> None:
    record = json.loads((prepared / "cifar10/dataset.json").read_text())
    record["source"] = "http://mirror.example/cifar.zip"
    (prepared / "cifar10/dataset.json").write_text(json.dumps(record))
    for name, told in (("cifar.zip", False), ("other.zip", True)):
        source = f"http://mirror.example/{name}?key=SECRET"
        done = run_cli(["prepare", "--data-dir", prepared, "--source", source])
        assert done.returncode == 0, done.stderr
        assert ("was prepared from" in done.stderr) is ("--force" in done.stderr) is told
        assert "SECRET" not in done.stderr


def test_a_link_to_another_disk_is_followed(
    run_cli: RunCli, prepared: Path, small_source: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(prepared / "cifar10", elsewhere)
    (prepared / "cifar10").symlink_to(elsewhere)
    source = builders.write_zip(tmp_path / "a.zip", builders.class_folders(train=4))
    done = run_cli(["prepare", "--data-dir", prepared, "--source", source, "--force"])
    assert done.returncode == 0, done.stderr
    assert (prepared / "cifar10").readlink() == elsewhere
    assert len(np.load(elsewhere / "train_labels.npy")) == 40
    assert sorted(path.name for path in prepared.iterdir()) == [".prepare.lock", "cifar10"]


def test_force_prepares_anew_and_verify_reads_back(run_cli: RunCli, prepared: Path, tmp_path: Path) -> None:
    source = builders.write_zip(tmp_path / "a.zip", builders.class_folders(train=4))
    done = run_cli(["prepare", "--data-dir", prepared, "--source", source, "--force", "--verify"])
    assert done.returncode == 0, done.stderr
    assert len(load_dataset(prepared, "cifar10").train) == 40
    assert "every checksum and fingerprint matches" in done.stdout
    assert [path.name for path in prepared.iterdir() if path.name.startswith(".partial")] == []


@pytest.mark.parametrize("name", sorted(FILES - {"samples.png", "samples", "dataset.json"}))
def test_files_changed_later_are_noticed(run_cli: RunCli, prepared: Path, name: str) -> None:
    path = prepared / "cifar10" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name} has changed since it was prepared.*--force"):
        load_dataset(prepared, "cifar10")
    if name == "train_images.npy":
        done = run_cli(["prepare", "--data-dir", prepared, "--verify"])
        assert done.returncode == 3 and "has changed since" in done.stderr


def test_changed_with_its_record_is_noticed_by_its_fingerprint(prepared: Path, run_cli: RunCli) -> None:
    """Who changes the file and its checksum too has still to explain the pictures."""
    from cifar_trainer.files import sha256_file

    labels = np.load(prepared / "cifar10/train_labels.npy")
    np.save(prepared / "cifar10/train_labels.npy", labels[::-1])
    record = json.loads((prepared / "cifar10/dataset.json").read_text())
    record["files"]["train_labels.npy"]["sha256"] = sha256_file(prepared / "cifar10/train_labels.npy")
    record["verified"] = True
    (prepared / "cifar10/dataset.json").write_text(json.dumps(record))
    assert not load_dataset(prepared, "cifar10").verified
    done = run_cli(["prepare", "--data-dir", prepared, "--verify"])
    assert done.returncode == 3 and "fingerprint" in done.stderr


@pytest.mark.parametrize("damage", ["truncate", "remove", "no json"])
def test_a_file_that_is_missing_or_short_is_prepared_anew(
    run_cli: RunCli, prepared: Path, small_source: Path, damage: str
) -> None:
    path = prepared / "cifar10" / ("dataset.json" if damage == "no json" else "test_images.npy")
    if damage == "remove":
        path.unlink()
    else:
        os.truncate(path, 100)
    with pytest.raises(DataError, match=path.name):
        load_dataset(prepared, "cifar10")
    done = run_cli(["prepare", "--data-dir", prepared, "--source", small_source])
    assert done.returncode == 0 and "Preparing it again" in done.stderr
    assert len(load_dataset(prepared, "cifar10").test) == 10


def test_nothing_prepared_names_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=r"(?s)cifar-trainer prepare.*--source.*--dataset synthetic"):
        load_dataset(tmp_path, "cifar10")


def test_offline_without_an_archive_names_the_ways_out_and_makes_no_folder(
    run_cli: RunCli, tmp_path: Path
) -> None:
    done = run_cli(["prepare", "--offline", "--data-dir", tmp_path / "data"])
    assert done.returncode == 3
    assert not (tmp_path / "data").exists()
    for text in ("--offline", "--source", "CIFAR_TRAINER_MIRRORS", "--dataset synthetic"):
        assert text in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dataset", "cifar01"], "Did you mean 'cifar10'"),
        (["--dataset", "synthetic", "--source", "x.zip"], "which is drawn and has no source"),
        (["--source", "https://example.org/x", "--offline"], "--offline forbids"),
        (["--dataset", "synthetic", "--test-fraction", "0.2"], "is for a source without a test set"),
        (["--source", "ftp://example.org/x"], "Expected a path, http, https or file"),
        (["--source", "https://user:secret@example.org/x"], "user name"),
        (["--source", "http://[::1"], "Expected a path, http, https or file"),
    ],
)
def test_arguments_that_cannot_be(run_cli: RunCli, tmp_path: Path, arguments: list[str], says: str) -> None:
    done = run_cli(["prepare", "--data-dir", tmp_path / "data", *arguments])
    assert done.returncode == 2 and says in done.stderr and "secret" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_path_and_locale_that_are_not_utf8(small_source: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"donn\xe9es")
    source = shutil.copy(small_source, tmp_path / "ménagerie.zip")
    env = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    arguments = ["prepare", "--data-dir", folder, "--source", source]
    done = run_command(arguments, env=env, errors="surrogateescape")
    assert done.returncode == 0, done.stderr
    assert run_command([*arguments, "--json"], env=env).returncode == 0
    assert len(load_dataset(folder, "cifar10").train) == 20


def test_prepare_never_imports_tensorflow(small_source: Path, tmp_path: Path) -> None:
    code = """
import atexit, sys
atexit.register(lambda: print(*{'tensorflow', 'keras', 'matplotlib'} & {*sys.modules}))
from cifar_trainer.cli import main
main()
"""
    arguments = ["prepare", "--data-dir", tmp_path, "--source", small_source, "--json"]
    done = run_python(["-c", code, *arguments], own_process=True)
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == [""]


def real_cifar10() -> Path:
    beside = Path(__file__).parents[3] / "shared/data/cifar-10-png.zip"
    return Path(os.environ.get("CIFAR_TRAINER_TEST_SOURCE", beside))


@pytest.mark.skipif(not real_cifar10().exists(), reason="CIFAR-10 is not here")
def test_real_cifar10_is_known_by_its_fingerprints(tmp_path: Path) -> None:
    report = prepare("cifar10", tmp_path, source=str(real_cifar10()))
    assert report.record.verified and report.title == "CIFAR-10"
    found = report.record.train.fingerprint, report.record.test.fingerprint
    assert found == (FINGERPRINTS.train, FINGERPRINTS.test)
