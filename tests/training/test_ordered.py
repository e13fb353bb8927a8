"""Images that are too large to keep in memory train as the others do, to the bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cifar_trainer.data import mapped
from cifar_trainer.errors import TrainingStopped
from cifar_trainer.recipes import RECIPES
from cifar_trainer.training import loop as loop_module
from cifar_trainer.training import trainer as trainer_module
from cifar_trainer.training.api import resume, train


@pytest.mark.usefixtures("small_runs")
def test_a_run_on_large_data_has_the_same_bits_also_if_it_was_stopped(
    small_data: Path,
    tmp_path: Path,
    stop_after: Callable[[int], Callable[[], bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer_module, "FIRST_CHUNK", 3)
    # 5 steps of 12 images, the last one smaller; two of them are on the device at a time.
    monkeypatch.setattr(loop_module, "WINDOW_BYTES", 2 * 12 * 32 * 32 * 3)

    def small(run: Path, **options: Any) -> str:
        return train(
            recipe="regularized", dataset="synthetic", data_dir=small_data, run_dir=run, epochs=2, limit=58,
            batch_size=12, device="cpu", validation="holdout", **options,
        ).weights_sha256  # fmt: skip

    in_memory = small(tmp_path / "memory")
    monkeypatch.setattr(mapped, "MAX_BYTES", 1000)
    read: list[np.ndarray] = []
    monkeypatch.setattr(loop_module, "release_pages", read.append)
    with pytest.raises(TrainingStopped):
        small(tmp_path / "large", should_stop=stop_after(3))
    assert resume(tmp_path / "large").weights_sha256 == in_memory
    # Three parts in each of two epochs.
    assert len(read) >= 6


def test_seeds_on_large_data_are_trained_in_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from cifar_trainer.data.dataset import Dataset, Split
    from cifar_trainer.images import Preprocessing
    from cifar_trainer.settings import RuntimeOptions, Settings
    from cifar_trainer.training.jobs import _obstacle

    np.save(tmp_path / "images.npy", np.zeros((4, 32, 32, 3), np.uint8))
    split = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), np.zeros(4, np.uint8))
    data = Dataset("x", tmp_path, None, ("a", "b"), split, split, "x", Preprocessing((32, 32, 3)))
    config = Settings("tutorial", "x", 1, 2, 0.1)
    assert _obstacle(config, RECIPES["tutorial"], data, RuntimeOptions()) is None
    monkeypatch.setattr(mapped, "MAX_BYTES", 1000)
    assert "another order" in (_obstacle(config, RECIPES["tutorial"], data, RuntimeOptions()) or "")
