"""What a kill leaves."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_trainer.training import trainer as trainer_module


@pytest.fixture
def copy_in_an_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Path], Callable[[], bool]]:
    """A `should_stop` that never stops, but copies a run's folder after its first steps: RUN, COPY."""
    monkeypatch.setattr(trainer_module, "FIRST_CHUNK", 2)

    def copy(run: Path, killed: Path) -> Callable[[], bool]:
        asked = itertools.count(1)

        def at_the_third_question() -> bool:
            if next(asked) == 3:
                shutil.copytree(run, killed)
            return False

        return at_the_third_question

    return copy
