"""Checkpoints: everything that a run needs to resume, written atomically.

A checkpoint is a folder, `checkpoints/step-00001563/`, with

    arrays.npz     variables of the model and the optimizer, and the epoch's losses so far
    state.json     epoch, step, history, and everything else that is not an array
    manifest.json  format version, and the SHA-256 of the other two files

It is written under a temporary name, flushed to the disk and renamed, so a folder with a checkpoint's name
is complete. The hashes detect disk faults and manual changes. The newest two checkpoints are kept.

Importing this does not import TensorFlow.
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
    """Assign `values` to `variables`.

    Raises:
        CheckpointError: the number of values, a shape or a dtype differs; nothing is assigned.
    """
    expected = [(tuple(v.shape), v.dtype) for v in variables]
    received = [(value.shape, str(value.dtype)) for value in values]
    if expected != received:
        raise CheckpointError(
            f"The checkpoint's {len(received)} arrays do not match the {len(expected)} variables of this "
            "model and optimizer; it belongs to a different recipe or version."
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


#: Format version; increased if older versions cannot read what this one writes.
FORMAT = 2
KEEP = 2
_PREFIX = "step-"
#: The lists of arrays in a checkpoint, and the prefix of their names in arrays.npz.
_LISTS = {"variables": "variable", "optimizer": "optimizer", "best": "best"}


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """The complete state of a run between two steps.

    Attributes:
        epoch: number of complete epochs.
        step: number of steps done in the current epoch; 0 at an epoch's end.
        global_step: number of steps done in the run.
        variables: the model's weights and the states of its random layers, in the order of
            `model.variables`.
        optimizer: the optimizer's variables, including the loss scale.
        losses, correct: loss and correct images of each step in the current epoch; float32 and int32 [step].
        history: one mapping for each complete epoch.
        clock: seconds so far: `total` of the run, `epoch` and `training` of this epoch.
        identity: the settings that a resume must not change, by name.
        best: the best epoch's weights, in the order of `model.weights`; empty if they are not kept.
        digests: SHA-256 of the validated weights, by epoch.
        ended_of: the number of epochs requested when a callback ended the run; None if no callback did.
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
    digests: dict[int, str] = dataclasses.field(default_factory=dict)
    ended_of: int | None = None


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint to `folder`, and remove all but the newest ones.

    Raises:
        OSError: it cannot be written; existing checkpoints are untouched.
    """
    path = folder / f"{_PREFIX}{checkpoint.global_step:08d}"
    arrays = {"losses": checkpoint.losses, "correct": checkpoint.correct}
    for name, prefix in _LISTS.items():
        arrays |= {f"{prefix}_{i:04d}": value for i, value in enumerate(getattr(checkpoint, name))}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    names = [field.name for field in dataclasses.fields(Checkpoint)]
    state = {name: getattr(checkpoint, name) for name in names if name not in ("losses", "correct", *_LISTS)}
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
    """The checkpoints in `folder`, newest first, by step and not by time."""
    paths = [path for path in folder.glob(f"{_PREFIX}*") if path.name[len(_PREFIX) :].isdigit()]
    return sorted(paths, key=checkpoint_step, reverse=True)


def checkpoint_step(path: Path) -> int:
    """The global step in a checkpoint's name."""
    return int(path.name[len(_PREFIX) :])


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its hashes.

    Raises:
        CheckpointError: a file is missing or has changed.
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
    # JSON keys are strings. Format 1 has no digests.
    state["digests"] = {int(epoch): digest for epoch, digest in state.get("digests", {}).items()}
    with np.load(io.BytesIO(arrays_npz), allow_pickle=False) as arrays:
        names = sorted(arrays.files)
        lists: dict[str, Any] = {
            name: [arrays[each] for each in names if each.startswith(f"{prefix}_")]
            for name, prefix in _LISTS.items()
        }
        return Checkpoint(losses=arrays["losses"], correct=arrays["correct"], **lists, **state)


def load_step(folder: Path, global_step: int) -> Checkpoint:
    """The checkpoint in `folder` at this global step.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return load(folder / f"{_PREFIX}{global_step:08d}")


def load_newest(folder: Path, on_damage: Callable[[str], None]) -> Checkpoint:
    """The newest intact checkpoint in `folder`.

    Args:
        folder: the checkpoints' folder.
        on_damage: receives a message about each damaged checkpoint, which is skipped.

    Raises:
        CheckpointError: all checkpoints are damaged, or there are none.
        RunError: a newer version wrote one.
    """
    paths = list_checkpoints(folder)
    for path in paths:
        try:
            return load(path)
        except CheckpointError as error:
            on_damage(str(error))
    kind = "intact checkpoint" if paths else "checkpoint"
    raise CheckpointError(
        f"{folder} has no {kind}, so the run cannot be resumed. To start over, use another --run-dir."
    )


def set_aside_newer(folder: Path, global_step: int) -> None:
    """Rename the damaged checkpoints after `global_step`.

    Under their old names, they would count among the newest and displace intact ones.
    """
    for path in list_checkpoints(folder):
        if checkpoint_step(path) > global_step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
