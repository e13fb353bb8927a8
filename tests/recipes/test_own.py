"""Recipes of one's own: a file that is run, copied into the run, and named line by line where it fails."""

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import RunCli

from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.evaluation.evaluate import evaluate
from cifar_trainer.recipes import get_recipe
from cifar_trainer.recipes.cpu90 import CPU90
from cifar_trainer.recipes.own import check_network, load_recipe
from cifar_trainer.recipes.recipe import augmentation, augmented
from cifar_trainer.run import Run, TrainResult
from cifar_trainer.training.api import reproduce, resume, train

pytestmark = pytest.mark.usefixtures("without_figures")
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "my_recipe.py"


def small(recipe: Path, data_dir: Path, run: Path, **options: Any) -> TrainResult:
    settings = {"epochs": 1, "limit": 128, "device": "cpu", **options}
    return train(recipe=recipe, dataset="synthetic", data_dir=data_dir, run_dir=run, **settings)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / "mine.py"))


@pytest.fixture(scope="module")
def run(without_figures: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose recipe's file is gone."""
    folder = tmp_path_factory.mktemp("own")
    mine = Path(shutil.copy(EXAMPLE, folder / "mine.py"))
    result = small(mine, small_data, folder / "run")
    mine.unlink()
    return Run(Path(result.run_dir))


def test_the_run_has_the_recipe_as_it_was(run: Run) -> None:
    assert run.recipe.read_bytes() == EXAMPLE.read_bytes()


def test_the_name_of_the_recipe_is_the_one_in_the_file(run: Run) -> None:
    assert run.read_config().recipe == "my-recipe"


def test_a_run_goes_on_with_its_copy(run: Run, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    assert resume(copy, epochs=2).epochs == 2


def test_a_run_is_evaluated_with_its_copy(run: Run, small_data: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run.path, tmp_path / "run")
    assert evaluate(copy, data_dir=small_data).accuracy == run.read_result().validation["accuracy"]


def test_a_run_is_reproduced_with_its_copy(run: Run, small_data: Path, tmp_path: Path) -> None:
    assert reproduce(run, run_dir=tmp_path / "again", data_dir=small_data).same


def test_a_copy_that_was_changed_is_refused_before_it_is_run(run: Run, tmp_path: Path) -> None:
    changed = Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    changed.recipe.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(RunError, match="is not the recipe that the run was started with"):
        changed.read_recipe()
    assert not (tmp_path / "ran").exists()


def test_a_recipe_can_start_from_a_built_in_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\n"
        "from cifar_trainer.recipes import RECIPES\n"
        'RECIPE = dataclasses.replace(RECIPES["cpu90"], name="always-32-pixels", scales=(1.0,))\n'
    )
    mine = load_recipe(file)
    assert (mine.name, mine.scales, mine.epochs) == ("always-32-pixels", (1.0,), CPU90.epochs)


def test_predict_runs_no_file_of_the_run(run: Run, data_dir: Path, tmp_path: Path, run_cli: RunCli) -> None:
    changed = Run(Path(shutil.copytree(run.path, tmp_path / "run")))
    changed.recipe.unlink()
    done = run_cli(["predict", changed.path, data_dir / "synthetic" / "samples.png"])
    assert done.returncode == 0, done.stderr


def test_all_runs_of_a_group_have_the_recipe_as_it_was_at_first(
    mine: Path, small_data: Path, tmp_path: Path
) -> None:
    common = {"dataset": "synthetic", "data_dir": small_data, "epochs": 1, "limit": 64, "device": "cpu"}
    train(seeds=(0,), recipe=mine, run_dir=tmp_path / "group", **common)
    mine.unlink()
    assert (tmp_path / "group" / "recipe.py").read_bytes() == EXAMPLE.read_bytes()


def written(folder: Path, text: str) -> str:
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = (", r"line 1: SyntaxError: '\(' was never closed"),
        ("a = 1\nb = a / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: the file exits the program"),
        ("a = 1\n", "defines no recipe. Expected one: RECIPE = Recipe"),
        ("from cifar_trainer.recipes import RECIPES\na, b, *_ = RECIPES.values()\n", "defines 2 recipes"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_by_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        get_recipe(written(tmp_path, text))


#: The recipe that the faults below change.
WHOLE = """import keras
from keras import layers
from cifar_trainer.recipes import Recipe
class Scale(layers.Layer):
    def call(self, x):
        return x
def build_model(image_shape, classes):
    inputs = keras.Input(image_shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Flatten()(x)
    x = layers.ReLU()(x)
    x = layers.Dense(classes, dtype="float32")(x)
    return keras.Model(inputs, x)
def build_optimizer(learning_rate, total_steps):
    return keras.optimizers.SGD(learning_rate)
def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
def augment(batch):
    return batch.images
RECIPE = Recipe(
    name="mine", summary="",
    epochs=1, batch_size=8, learning_rate=0.1,
    build_model=build_model,
    build_optimizer=build_optimizer,
    loss=loss,
    augment=augment)
"""


@pytest.mark.parametrize(
    ("before", "after", "line", "says"),
    [
        ("Dense(classes,", "Dense(7,", 7, r"has the shape \(None, 7\). Expected .*\(None, 10\)"),
        ("Flatten()", "ReLU()", 7, r"output has the shape \(None, 32, 32, 10\)"),
        ("keras.Model(inputs, x)", "keras.Model(inputs, [x, x])", 7, "1 inputs and 2 outputs"),
        ("keras.Model(inputs, x)", "keras.Sequential([Scale()])", 7, "a Sequential without inputs"),
        ("keras.Model(inputs, x)", "keras.Model()", 7, "a Model without inputs"),
        ("keras.Model(inputs, x)", "None", 7, "build_model returned None. Expected a keras.Model"),
        ("model(image_shape, classes)", "model()", 7, "build_model cannot be called as build_model"),
        ('dtype="float32")', 'dtype="bfloat16")', 7, "its last layer needs dtype='float32'"),
        ("layers.ReLU()", "layers.Lambda(lambda x: x)", 7, "a Lambda. A saved model contains no Python"),
        ("layers.ReLU()", "Scale()", 7, "the layer 'scale.*', a Scale. A saved model contains no Python"),
        ("layers.ReLU", "layers.Relu", 11, "AttributeError: "),
        ("loss=loss", "loss=loss()", 25, r"loss cannot be called as loss\(\)"),
        ("loss=loss", 'loss="mse"', 25, r"loss is a str. Expected a function loss\(\)"),
        ("=build_optimizer", '="adam"', 24, "build_optimizer is a str. Expected a function"),
        ("keras.optimizers.SGD(learning_rate)", '"adam"', 14, "Expected a keras.optimizers.Optimizer"),
        ("return batch.images", "return batch.images[:, :8]", 18, "Expected images of the shape"),
        ("return batch.images", "return None", 18, "augment returned None"),
        ('"mine"', '"../../evil name"', 21, "'../../evil name' cannot be part of a folder's name"),
        ("batch_size=8", "batch_size=0", 22, "batch-size 0 is out of range. Expected a whole number"),
        ("epochs=1", "epochs='ten'", 22, "epochs 'ten' is a string"),
    ],
)
def test_a_fault_in_the_recipe_is_one_message_with_its_line(
    tmp_path: Path, before: str, after: str, line: int, says: str
) -> None:
    assert before in WHOLE
    path = written(tmp_path, WHOLE.replace(before, after, 1))
    with pytest.raises(UsageError) as error:
        recipe = get_recipe(path)
        recipe.build_model((32, 32, 3), 10)
        recipe.build_optimizer(0.1, 10)
        augmented(recipe, np.zeros((2, 32, 32, 3), np.uint8), 1)
    assert str(error.value).startswith(f"--recipe {path}, line {line}: ")
    assert re.search(says, str(error.value))


REGISTERED = "@keras.saving.register_keras_serializable()\ndef double(x):\n    return x * 2\n"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("(classes,", "(classes, activation='softmax',", "ends in a softmax. Expected logits"),
        ("SparseCategorical", "Categorical", "the loss does not accept integer labels"),
        ("from_logits=True", "from_logits=False", "does not change with negative logits: it expects prob"),
        (
            "SparseCategoricalCrossentropy(from_logits=True)",
            "MeanSquaredError()",
            "does not accept integer",
        ),
        ("(classes,", "(classes, activation=lambda x: 2 * x,", "cannot be loaded without this file"),
        ("(classes,", "(classes, activation=double,", "cannot be loaded without this file"),
        ("loss=loss,", "loss=loss, scales=(0.5, 1.0),", "does not accept images scaled by 0.5"),
        ("loss=loss,", "loss=loss, frozen={'conv9/bias': 0.5},", "frozen has 'conv9/bias', but no trained"),
    ],
)
def test_a_network_that_nothing_could_use_is_refused_before_the_first_step(
    tmp_path: Path, before: str, after: str, says: str
) -> None:
    text = WHOLE.replace("def build_model", f"{REGISTERED}def build_model").replace(before, after, 1)
    recipe = get_recipe(written(tmp_path, text))
    with pytest.raises(UsageError, match=says):
        check_network(recipe, recipe.build_model((32, 32, 3), 10))


@pytest.mark.parametrize("augment", [None, "crop:4,flip,randaugment:2:9,erase:1,mixup:0.2,cutmix:1"])
def test_the_whole_recipe_is_accepted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, augment: str | None
) -> None:
    """Also with an augmentation that `train --augment` puts in place of its own."""
    recipe = get_recipe(written(tmp_path, WHOLE))
    if augment is not None:
        recipe = dataclasses.replace(recipe, augment=augmentation(augment))
    check_network(recipe, recipe.build_model((32, 32, 3), 10))
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("return batch.images", "return batch.images / 255", "Are the pixels scaled twice"),
        ("Rescaling(1 / 255)", "Rescaling(1.0)", "Scale the pixels in the network"),
        ("layers.ReLU()", "layers.Dense(32)", "have no nonlinearity in between"),
        ('dtype="float32")', 'dtype="float32", trainable=False)', "are frozen at their random initial"),
    ],
)
def test_what_is_probably_wrong_is_a_warning_before_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, before: str, after: str, says: str
) -> None:
    recipe = get_recipe(written(tmp_path, WHOLE.replace(before, after, 1)))
    check_network(recipe, recipe.build_model((32, 32, 3), 10))
    assert [says in message for message in caplog.messages] == [True]


def test_what_a_recipe_prints_is_not_in_the_results(
    tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = re.sub(r"(?m)^( *)(def|return|RECIPE)", r"\1print('mine')\n\1\2", WHOLE)
    small(Path(written(tmp_path, text)), small_data, tmp_path / "run")
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("mine") > 10


@pytest.mark.parametrize(
    "arguments",
    [["benchmark", "--device", "cpu", "--train", "--recipe"], ["recipes", "--plot", "p.png", "--show"]],
)
def test_a_fault_is_one_message_in_every_command(
    tmp_path: Path, run_cli: RunCli, arguments: list[str]
) -> None:
    path = written(tmp_path, WHOLE.replace("Flatten()", "Flaten()"))
    done = run_cli([*arguments, path], cwd=tmp_path)
    assert done.returncode == 2
    assert f"--recipe {path}, line 10: AttributeError: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere.py cannot be read: No such file"):
        get_recipe(str(tmp_path / "nowhere.py"))


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [("layers.Rescaling(1 / 255)", "layers.Rescaling(1 / 0)", 20), ("tf.where(flip", "tf.where(flop", 36)],
)
def test_a_fault_in_training_names_the_line_and_leaves_no_run(
    mine: Path, small_data: Path, tmp_path: Path, before: str, after: str, line: int
) -> None:
    mine.write_text(mine.read_text().replace(before, after))
    with pytest.raises(UsageError, match=rf"mine.py, line {line}: "):
        small(mine, small_data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
