"""Runs that wait after their first epoch, so that a test meets them there on a machine of any speed."""

import json
from pathlib import Path

_RECIPE = """
import dataclasses, time
from pathlib import Path
from cifar_trainer.recipes import tutorial
from cifar_trainer.training.trainer import Trainer
GO, advance = Path({go}), Trainer.advance
def held(self, *, stop):
    if self.position[0] == 1 and not stop and not GO.exists():
        time.sleep(0.01)
    else:
        advance(self, stop=stop)
Trainer.advance = held
RECIPE = dataclasses.replace(tutorial.TUTORIAL, name="holding")
"""


def holding(folder: Path) -> tuple[Path, Path]:
    """The file of a recipe, and a file: until it exists, runs of the recipe wait after their first epoch."""
    recipe, go = folder / "holding.py", folder / "go"
    recipe.write_text(_RECIPE.format(go=json.dumps(str(go))))
    return recipe, go


def is_held(run: Path) -> bool:
    """Whether a run has completed its first epoch."""
    history = run / "history.csv"
    return history.is_file() and len(history.read_text().splitlines()) > 1
