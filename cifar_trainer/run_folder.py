"""A run's folder: how it is made for a new run, and held against other processes."""

import contextlib
import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cifar_trainer import locks
from cifar_trainer.errors import RunError
from cifar_trainer.files import PARTIAL_PREFIX, remove_partials
from cifar_trainer.run import DEFAULT_ROOT, Run

LOCK_NAME = ".lock"


def check_new(path: Path) -> None:
    """Raise RunError unless a new run can be made at `path`. Makes nothing that stays."""
    try:
        if os.path.lexists(path) and not path.is_dir():
            raise RunError(f"{path} exists and is not a folder. Choose another --run-dir.")
        if path.is_dir():
            if (path / "config.json").is_file():
                raise RunError(
                    f"{path} already holds a run. Resume it (--resume {path}), or choose another --run-dir."
                )
            if not all(map(_is_leftover, path.iterdir())):
                raise RunError(f"{path} exists and is not an empty folder. Choose another --run-dir.")
        existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
        # Asked of the file system itself: permissions do not tell of a disk that is mounted read-only.
        descriptor, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=existing)
        os.close(descriptor)
        Path(name).unlink()
        # Too long is found out now, and not when the run has been trained.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path / "evaluation" / "validation" / "report.html")
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"The run folder {path} cannot be written: {error.strerror}. Choose another --run-dir.")


def _is_leftover(path: Path) -> bool:
    """Whether it is what a run leaves that was killed before it had begun, and may be written over."""
    names = (LOCK_NAME, f"{LOCK_NAME}.holder", "environment.json")
    return path.name in names or path.name.startswith(PARTIAL_PREFIX)


def reserve_folder(name: str) -> Path:
    """Make an empty folder `runs/TIME-name`; two that begin in the same second get one each."""
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name}"
    DEFAULT_ROOT.mkdir(parents=True, exist_ok=True)
    path, count = DEFAULT_ROOT / stem, 1
    while True:
        try:
            path.mkdir()
            return path
        except FileExistsError:
            count += 1
            path = DEFAULT_ROOT / f"{stem}-{count}"


@contextlib.contextmanager
def new_run(path: Path | None, recipe: str) -> Iterator[Run]:
    """Make a run's folder, `path` or `runs/TIME-RECIPE` where that is None, and hold it.

    Where the block fails before config.json is written, nothing was begun, and the folder goes again.

    Raises:
        RunError: the folder holds something, cannot be made or written, or is in use.
    """
    try:
        chosen = path or reserve_folder(recipe)
        # Before anything is made: what holds something else is left as it is.
        if not _is_held_folder(chosen):
            check_new(chosen)
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path or DEFAULT_ROOT, error) from error
    run = Run(chosen)
    with hold(run):
        # Another process may have made a run here since.
        check_new(chosen)
        remove_partials(chosen)
        try:
            yield run
        finally:
            if not run.config.exists():
                _remove_unbegun(run)


def discard_unbegun(run: Run) -> None:
    """Delete what a run has written, unless an epoch is complete. Only for who holds it, in `new_run`."""
    if run.history.is_file() and run.read_history():
        return
    shutil.rmtree(run.tensorboard, ignore_errors=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)
    for path in (run.history, run.config):
        path.unlink(missing_ok=True)


def _remove_unbegun(run: Run) -> None:
    """Delete the folder of a run that never began. Only for who holds it."""
    for name in (run.recipe.name, run.environment.name, LOCK_NAME):
        (run.path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        run.path.rmdir()


def _is_held_folder(path: Path) -> bool:
    return path.is_dir() and is_held(Run(path))


@contextlib.contextmanager
def hold(run: Run) -> Iterator[None]:
    """Hold a run against other processes until the block ends, or this process does.

    Raises:
        RunError: another process holds it.
    """
    try:
        with locks.lock(run.path / LOCK_NAME):
            yield
    except locks.LockedError as error:
        by = f" by {error.holder}" if error.holder else " by another process"
        raise RunError(f"{run.path} is in use{by}. Wait for it, or choose another --run-dir.") from error


def is_held(run: Run) -> bool:
    """Whether a process holds the run at this moment; looking disturbs nobody."""
    return locks.is_locked(run.path / LOCK_NAME)
