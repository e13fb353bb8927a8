"""Recipes of one's own: a file that is run, copied into the run, and named line by line where it fails."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import RunCli

from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.evaluation.evaluate import evaluate
from cifar_trainer.recipes import get_recipe
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.training.reproduction import reproduce
from cifar_trainer.training.seeds import train_seeds
from cifar_trainer.training.session import resume, train

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "my_recipe.py"


def small(recipe: Path, data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 1, "limit": 128, "device": "cpu", **options}
    return train(recipe=recipe, dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "mine.py"))


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose recipe's file is gone."""
    folder = tmp_path_factory.mktemp("own")
    mine = Path(shutil.copy(EXAMPLE, folder / "mine.py"))
    result = small(mine, data_dir, folder / "run")
    mine.unlink()
    return Run(Path(result.run_dir))


def test_the_run_has_the_recipe_as_it_was(run: Run) -> None:
    assert run.recipe.read_bytes() == EXAMPLE.read_bytes()


def test_the_name_of_the_recipe_is_the_one_in_the_file(run: Run) -> None:
    assert run.read_config().recipe == "my-recipe"


def test_a_run_goes_on_with_its_copy(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    assert resume(copy, epochs=2).epochs == 2


def test_a_run_is_evaluated_with_its_copy(run: Run, data_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    assert evaluate(copy, data_dir=data_dir).accuracy == run.read_result().validation["accuracy"]


def test_a_run_is_reproduced_with_its_copy(run: Run, data_dir: Path, tmp_path: Path) -> None:
    assert reproduce(run, run_dir=tmp_path / "again", data_dir=data_dir).same


def test_a_copy_that_was_changed_is_refused_before_it_is_run(run: Run, tmp_path: Path) -> None:
    changed = Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    changed.recipe.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(RunError, match="is not the recipe that the run was begun with"):
        changed.read_recipe()
    assert not (tmp_path / "ran").exists()


def test_predict_runs_no_file_of_the_run(run: Run, data_dir: Path, tmp_path: Path, run_cli: RunCli) -> None:
    changed = Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    changed.recipe.unlink()
    done = run_cli(["predict", changed.path, data_dir / "synthetic" / "samples.png"])
    assert done.returncode == 0, done.stderr


def test_all_runs_of_a_group_have_the_recipe_as_it_was_at_first(
    mine: Path, data_dir: Path, tmp_path: Path
) -> None:
    common = {"dataset": "synthetic", "data_dir": data_dir, "epochs": 1, "limit": 64, "device": "cpu"}
    train_seeds((0,), recipe=mine, run_dir=tmp_path / "group", **common)
    mine.unlink()
    assert (tmp_path / "group" / "recipe.py").read_bytes() == EXAMPLE.read_bytes()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = (", r"line 1: '\(' was never closed"),
        ("a = 1\nb = a / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError"),
        ("a = 1\n", "defines no recipe. Expected one: RECIPE = Recipe"),
        ("from cifar_trainer.recipes import RECIPES\na, b, *_ = RECIPES.values()\n", "defines 2 recipes"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=says):
        get_recipe(str(tmp_path / "mine.py"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.py cannot be read: No such file"):
        get_recipe(str(tmp_path / "nowhere.py"))


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [("layers.Rescaling(1 / 255)", "layers.Rescaling(1 / 0)", 20), ("tf.where(flip", "tf.where(flop", 36)],
)
def test_a_fault_in_training_names_the_line_and_leaves_no_run(
    mine: Path, data_dir: Path, tmp_path: Path, before: str, after: str, line: int
) -> None:
    mine.write_text(mine.read_text().replace(before, after))
    with pytest.raises(UsageError, match=rf"mine.py, line {line}: "):
        small(mine, data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()
