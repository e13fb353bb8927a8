"""A checkpoint is whole, or it is named and passed over; the newest two are kept."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import python

from cifar_trainer.errors import CheckpointError, RunError
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint


def make(global_step: int) -> Checkpoint:
    return Checkpoint(
        epoch=global_step // 10,
        step=global_step % 10,
        global_step=global_step,
        variables=[np.full((3, 2), global_step, np.float32), np.array([1, global_step], np.int64)],
        optimizer=[np.array(global_step, np.int64)],
        losses=np.arange(global_step % 10, dtype=np.float32),
        correct=np.arange(global_step % 10, dtype=np.int32),
        history=[{"epoch": 1, "loss": 0.5, "power_watts": None}],
        clock={"total": 1.5, "epoch": 0.5, "training": 0.25},
        identity={"seed": 0},
    )


def refuse_damage(message: str) -> None:
    raise AssertionError(f"nothing is damaged, but: {message}")


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    saved = make(13)
    loaded = checkpoints.load(checkpoints.save(tmp_path, saved))
    for name in ("epoch", "step", "global_step", "history", "clock", "identity"):
        assert getattr(loaded, name) == getattr(saved, name)
    for name in ("variables", "optimizer"):
        for mine, theirs in zip(getattr(loaded, name), getattr(saved, name), strict=True):
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(loaded.losses, saved.losses)


def test_the_newest_two_by_step_are_kept(tmp_path: Path) -> None:
    """The order is by step: a clock that was set back changes nothing (row 46)."""
    for step in (5, 20, 100):
        checkpoints.save(tmp_path, make(step))
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [
        "step-00000100",
        "step-00000020",
    ]


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "emptied": lambda path: path.write_bytes(b""),
    "one bit flipped": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 4]) + path.read_bytes()[1:]
    ),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["arrays.npz", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str, damage: str
) -> None:
    checkpoints.save(tmp_path, make(10))
    newest = checkpoints.save(tmp_path, make(20))
    DAMAGES[damage](newest / name)
    said: list[str] = []
    assert checkpoints.load_newest(tmp_path, said.append).global_step == 10
    assert len(said) == 1
    assert "step-00000020 is damaged" in said[0]
    assert name in said[0]


def test_every_bit_of_a_checkpoint_is_guarded(tmp_path: Path) -> None:
    """A flip anywhere, seeded: no place in the three files may load silently."""
    path = checkpoints.save(tmp_path, make(13))
    generator = np.random.default_rng(0)
    for name in ("arrays.npz", "state.json"):
        whole = (path / name).read_bytes()
        for at in generator.integers(0, len(whole), 60):
            broken = bytearray(whole)
            broken[at] ^= 1 << int(generator.integers(8))
            (path / name).write_bytes(broken)
            with pytest.raises(CheckpointError):
                checkpoints.load(path)
        (path / name).write_bytes(whole)
    assert checkpoints.load(path).global_step == 13


def test_where_all_are_damaged_it_says_so_and_never_starts_afresh(tmp_path: Path) -> None:
    for step in (10, 20):
        (checkpoints.save(tmp_path, make(step)) / "arrays.npz").unlink()
    with pytest.raises(CheckpointError, match="has no intact checkpoint"):
        checkpoints.load_newest(tmp_path, lambda message: None)
    shutil.rmtree(tmp_path / "step-00000010")
    shutil.rmtree(tmp_path / "step-00000020")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        checkpoints.load_newest(tmp_path, refuse_damage)


def test_a_checkpoint_of_a_newer_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, make(10))
    manifest = checkpoints.save(tmp_path, make(20)) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(RunError, match="Upgrade"):
        checkpoints.load_newest(tmp_path, refuse_damage)


def test_damaged_ones_that_were_passed_over_push_no_whole_one_out(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, make(10))
    (checkpoints.save(tmp_path, make(20)) / "arrays.npz").unlink()
    checkpoints.set_aside_newer(tmp_path, 10)
    checkpoints.save(tmp_path, make(15))
    assert [path.name for path in checkpoints.list_checkpoints(tmp_path)] == [
        "step-00000015",
        "step-00000010",
    ]


def test_a_write_that_fails_leaves_the_old_ones_and_no_leftovers(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write fails half way."""
    checkpoints.save(tmp_path, make(10))
    before = sorted(path.name for path in tmp_path.iterdir())
    here = Path(__file__).parent
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "sys.path[:0] = sys.argv[2:]; from test_checkpoint import make, checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))\n"
        "checkpoints.save(Path(sys.argv[1]), make(20))\n"
    )
    done = subprocess.run(
        [python(), "-c", program, tmp_path, here, here.parent],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "File too large" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert checkpoints.load_newest(tmp_path, refuse_damage).global_step == 10
