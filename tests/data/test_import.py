"""What people type and have: a bare path, `file://`, arrays in another order, a folder in the way."""

from pathlib import Path

import numpy as np
import pytest
from builders import RunCli

from cifar_trainer.data import store
from cifar_trainer.data.dataset import ImageSet, Split


def test_a_path_without_its_option_gets_a_hint(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli(["prepare", tmp_path / "cifar.tar.gz"])
    assert done.returncode == 2
    assert f"Did you mean --source {tmp_path / 'cifar.tar.gz'}" in done.stderr


def test_a_file_address_is_read_as_a_path(run_cli: RunCli, small_source: Path, tmp_path: Path) -> None:
    done = run_cli(["prepare", "--source", small_source.absolute().as_uri(), "--data-dir", tmp_path / "data"])
    assert done.returncode == 0, done.stderr


def test_train_looks_at_the_run_folder_before_it_prepares_data(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").touch()
    data = ["--data-dir", tmp_path / "data", "--dataset", "synthetic"]
    done = run_cli(["train", *data, "--run-dir", tmp_path / "run"])
    assert done.returncode == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_any_memory_order_are_read_back_as_they_were(order: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    images = np.asarray(draw.integers(0, 256, (6, 32, 32, 3), np.uint8), order=order)  # type: ignore[call-overload]
    split = Split(images, np.arange(6, dtype=np.uint8))
    raw = ImageSet(tuple("abcdef"), {"train": split, "test": split})
    store.write_dataset(tmp_path / "own", "own", raw, "a test")
    np.testing.assert_array_equal(store.load_dataset(tmp_path, "own").train.images, images)
