"""Checkpoints: everything that a run needs to go on, whole or not at all.

A checkpoint is a folder, `checkpoints/step-00001563/`, that holds

    arrays.npz     the model's variables, the optimizer's, the epoch's losses so far
    state.json     epoch, step, history, and what else is no array
    manifest.json  the format's version, and the SHA-256 of the other two

It is written under another name, flushed to the disk and renamed, so what bears the
name of a checkpoint is whole unless the disk has failed or someone has changed it; that
is what the hashes are for. The newest two are kept.

Importing this imports no TensorFlow: a group of runs looks at their checkpoints before it starts.
"""

import dataclasses
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_trainer import files
from cifar_trainer.errors import CheckpointError, RunError

if TYPE_CHECKING:
    import keras


def read_variables(variables: "Sequence[keras.Variable]") -> list[np.ndarray]:
    """The values of `variables`, copied to the host."""
    return [np.asarray(variable.numpy()) for variable in variables]


def assign_variables(variables: "Sequence[keras.Variable]", values: Sequence[np.ndarray]) -> None:
    """Set `variables` to `values`, one by one.

    Raises:
        CheckpointError: their number, a shape or a dtype is not the variables'; nothing
            is assigned then.
    """
    expected = [(tuple(v.shape), v.dtype) for v in variables]
    received = [(value.shape, str(value.dtype)) for value in values]
    if expected != received:
        raise CheckpointError(
            f"The checkpoint holds {len(received)} arrays that do not fit the {len(expected)} variables of "
            "this model and optimizer; it belongs to another recipe or version."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


#: Rises when an older program could not read what this one writes.
FORMAT = 1
KEEP = 2
_PREFIX = "step-"


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """The whole state of a run between two steps.

    Attributes:
        epoch: epochs that are complete.
        step: steps done of the epoch that has begun; 0 at an epoch's end.
        global_step: steps done in all.
        variables: the model's weights and the states of its random layers, in the order
            of `model.variables`.
        optimizer: the optimizer's variables, the loss scale among them.
        losses, correct: of the steps done of this epoch; float32 and int32 [step].
        history: one mapping for each complete epoch.
        clock: seconds so far: `total` of the run, `epoch` and `training` of this epoch.
        identity: what must agree for another process to go on (names to values).
        best: the weights of the best epoch, in the order of `model.weights`; empty where none are kept.
    """

    epoch: int
    step: int
    global_step: int
    variables: list[np.ndarray]
    optimizer: list[np.ndarray]
    losses: np.ndarray
    correct: np.ndarray
    history: list[dict[str, Any]]
    clock: dict[str, float]
    identity: dict[str, Any]
    best: list[np.ndarray] = dataclasses.field(default_factory=list)


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint below `folder` and let the older ones go, but for the newest.

    Raises:
        OSError: it could not be written; the ones that were there are untouched.
    """
    path = folder / f"{_PREFIX}{checkpoint.global_step:08d}"
    arrays = {
        "losses": checkpoint.losses,
        "correct": checkpoint.correct,
        **{f"variable_{i:04d}": value for i, value in enumerate(checkpoint.variables)},
        **{f"optimizer_{i:04d}": value for i, value in enumerate(checkpoint.optimizer)},
        **{f"best_{i:04d}": value for i, value in enumerate(checkpoint.best)},
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    state = {
        name: getattr(checkpoint, name)
        for name in ("epoch", "step", "global_step", "history", "clock", "identity")
    }
    with files.atomic_folder(path, replace=True) as partial:
        (partial / "arrays.npz").write_bytes(buffer.getbuffer())
        (partial / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        manifest = {
            "format": FORMAT,
            "sha256": {name: files.sha256_file(partial / name) for name in ("arrays.npz", "state.json")},
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    for old in list_checkpoints(folder)[KEEP:]:
        shutil.rmtree(old)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints below `folder`, the newest (by step, not by clock) first."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]
    return sorted(found, key=checkpoint_step, reverse=True)


def checkpoint_step(path: Path) -> int:
    """The steps of the whole run after which a checkpoint of this name was saved."""
    return int(path.name[len(_PREFIX) :])


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Raises:
        CheckpointError: a file is missing, or is not what was written.
        RunError: a newer version wrote it.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version, hashes = manifest["format"], manifest["sha256"]
        if not isinstance(version, int) or set(hashes) != {"arrays.npz", "state.json"}:
            raise ValueError("it is not a manifest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: manifest.json: {error}.") from error
    if version > FORMAT:
        raise RunError(
            f"{path} has format {version}; this version of cifar-trainer reads up to {FORMAT}. Upgrade it."
        )
    contents = {}
    for name, expected in hashes.items():
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} is damaged: {name}: {error.strerror}.") from error
        actual = files.sha256_bytes(contents[name])
        if actual != expected:
            raise CheckpointError(f"{path} is damaged: {name} has SHA-256 {actual}, expected {expected}.")
    try:
        return _decode(contents["state.json"], contents["arrays.npz"])
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error


def _decode(state_json: bytes, arrays_npz: bytes) -> Checkpoint:
    state = json.loads(state_json)
    with np.load(io.BytesIO(arrays_npz), allow_pickle=False) as arrays:
        names = sorted(arrays.files)
        return Checkpoint(
            variables=[arrays[name] for name in names if name.startswith("variable_")],
            optimizer=[arrays[name] for name in names if name.startswith("optimizer_")],
            best=[arrays[name] for name in names if name.startswith("best_")],
            losses=arrays["losses"],
            correct=arrays["correct"],
            **state,
        )


def load_step(folder: Path, global_step: int) -> Checkpoint:
    """The checkpoint below `folder` after so many steps.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return load(folder / f"{_PREFIX}{global_step:08d}")


def load_newest(folder: Path, on_damage: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint below `folder` that is whole.

    Args:
        on_damage: told of each newer one that is not, before it is passed over.

    Raises:
        CheckpointError: none is whole.
        RunError: a newer version wrote one.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load(path)
        except CheckpointError as error:
            on_damage(str(error))
    count = len(paths)
    what = (
        f"None of the {count} checkpoints in {folder} is whole" if count else f"{folder} holds no checkpoint"
    )
    raise CheckpointError(
        f"{what}, so the run cannot go on. It is never begun afresh by itself: "
        "train again under another --run-dir."
    )


def set_aside_newer(folder: Path, global_step: int) -> None:
    """Rename the checkpoints after `global_step`, damaged ones that a run has passed over.

    Under their old names they would count among the newest and push whole ones out.
    """
    for path in list_checkpoints(folder):
        if checkpoint_step(path) > global_step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
