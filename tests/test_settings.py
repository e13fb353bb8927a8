"""Each setting and runtime option is declared once; the rest follows."""

from pathlib import Path
from typing import Any

import click
import pytest

from cifar_trainer.cli.sweep import command as sweep
from cifar_trainer.cli.train import command as train
from cifar_trainer.errors import UsageError
from cifar_trainer.settings import Declaration, RuntimeOptions, Settings, command_words, declared

GIVEN = {"recipe": "tutorial", "dataset": "synthetic", "epochs": 10, "batch_size": 32, "learning_rate": 0.001}
EVERYTHING = {**declared(Settings), **declared(RuntimeOptions)}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("epochs", 0, "--epochs 0 is out of range. Expected a whole number from 1 up."),
        ("epochs", 2**31, "Expected at most 2147483647"),
        ("epochs", "3", "--epochs '3' is a string. Expected a whole number from 1 up."),
        ("epochs", True, "--epochs True is True or False. Expected a whole number from 1 up."),
        ("epochs", 2.0, "is a fraction. Expected a whole number"),
        ("epochs", [3], r"--epochs [3] is of type list. Expected a whole number"),
        ("batch_size", 0, "--batch-size 0 is out of range"),
        ("limit", -1, "--limit -1 is out of range"),
        ("learning_rate", 0.0, "Expected a number above 0, such as 0.001."),
        ("learning_rate", float("nan"), "--learning-rate nan is out of range"),
        ("learning_rate", float("inf"), "--learning-rate inf is out of range"),
        ("learning_rate", "0.1", "--learning-rate '0.1' is a string. Expected a number above 0"),
        ("seed", -1, "Expected a whole number from 0 to 4294967295."),
        ("seed", 2**32, "Expected a whole number from 0 to 4294967295."),
        ("warmup", -1.0, "Expected a number from 0 up."),
        ("warmup", 11.0, "from 0 to --epochs (10)"),
        ("weight_decay", -0.1, "Expected a number from 0 up."),
        ("label_smoothing", 1.0, "Expected a number from 0 to below 1."),
        ("ema", 1.5, "Expected a number from 0 to below 1."),
        ("patience", 0, "Expected a whole number from 1 up."),
        ("deterministic", "yes", "--deterministic 'yes' is a string. Expected True or False."),
        ("dataset", 7, "--dataset 7 is a number. Expected a string."),
        ("precision", "float23", "Choose from float32, tf32, bfloat16, float16. Did you mean 'float32'?"),
        ("device", "cuda", "Did you mean 'gpu'?"),
        ("device", None, "--device None is not set. Expected auto, cpu, gpu."),
        ("validation", "hold-out", "Did you mean 'holdout'?"),
        ("schedule", "cosin", "Did you mean 'cosine'?"),
        ("class_weights", "balance", "Did you mean 'balanced'?"),
        ("conv", "matmull", "Did you mean 'matmul'?"),
        ("augment", "flop", "--augment 'flop' is invalid at 'flop'. Expected none, or operations joined by"),
        ("augment", "", "crop:1..64, flip, randaugment:1..8:0..10, erase:0..1, mixup:0.01..100, cutmix:"),
        ("augment", "flip,crop", "is invalid at 'crop'"),
        ("augment", "flip:1", "is invalid at 'flip:1'"),
        ("augment", "flip,flip", "Each may occur once"),
        ("augment", "flip,none", "is invalid at 'none'"),
        ("augment", "crop:4.5", "is invalid at 'crop:4.5'"),
        ("augment", "mixup:nan", "is invalid at 'mixup:nan'"),
        ("augment", "randaugment:2:11", "is invalid at 'randaugment:2:11'"),
        ("augment", 3, "--augment 3 is a number. Expected a string."),
        ("patience", 3, "--patience needs --validation holdout"),
        ("keep", "best", "--keep best needs --validation holdout"),
        ("schedule", "plateau", "--schedule plateau needs --validation holdout"),
    ],
)
def test_a_setting_that_is_not_possible_is_named_with_what_is(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError) as error:
        Settings(**{**GIVEN, name: value})
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("patience", 3, "--patience"),
        ("keep", "best", "--keep best"),
        ("schedule", "plateau", "--schedule plat"),
    ],
)
def test_what_selects_by_validation_accuracy_needs_that_of_each_epoch(
    name: str, value: Any, option: str
) -> None:
    with pytest.raises(UsageError, match=f"{option}.* needs the validation accuracy of each epoch"):
        Settings(**{**GIVEN, name: value, "validation": "holdout", "validate": "end"})


@pytest.mark.parametrize(
    ("text", "kept"),
    [("flip+ crop:04", "crop:4,flip"), ("cutmix:1.0,mixup:.2", "mixup:0.2,cutmix:1"), (" none", "none")],
)
def test_an_augmentation_has_one_form_however_it_is_written(text: str, kept: str) -> None:
    assert Settings(**GIVEN, augment=text).augment == kept


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        (
            "checkpoint_every",
            0,
            "--checkpoint-every 0 is out of range. Expected a number of seconds above 0.",
        ),
        ("time_limit", float("nan"), "--time-limit nan is out of range"),
        ("time_limit", "1h", "--time-limit '1h' is a string. Expected a number of seconds above 0."),
        ("profile", 1, "--profile 1 is a number. Expected True or False."),
    ],
)
def test_a_runtime_option_that_is_not_possible_is_named_with_what_is(
    name: str, value: Any, says: str
) -> None:
    with pytest.raises(UsageError) as error:
        RuntimeOptions(**{name: value})
    assert says in str(error.value)


def test_a_warmup_does_not_go_with_a_plateau() -> None:
    with pytest.raises(UsageError, match="--warmup cannot be combined with --schedule plateau"):
        Settings(**GIVEN, schedule="plateau", warmup=1.0, validation="holdout")


def options(command: click.Command) -> dict[str, str]:
    return {option.name: option.opts[0] for option in command.params if option.name is not None}


def test_train_has_an_option_for_each_declaration() -> None:
    assert {name: each.option for name, each in EVERYTHING.items()}.items() <= options(train).items()


def test_sweep_has_those_that_apply_to_all_trials() -> None:
    expected = {name for name, each in EVERYTHING.items() if each.in_sweep}
    assert expected <= set(options(sweep))
    assert not {"gpus", "stack", "time_limit", "profile", "from_trial"} & set(options(sweep))


def test_the_words_of_a_command_line_are_read_as_the_arguments_that_they_were_made_from() -> None:
    arguments: dict[str, Any] = {
        "epochs": 3, "deterministic": True, "xla": False, "limit": None, "keep": "best",
        "learning_rate": 0.1 + 0.2, "time_limit": 90.0, "run_dir": Path("a b"),
    }  # fmt: skip
    words = command_words({**arguments, "end_after": 2, "side_by_side": 4})
    assert words[:2] == ["--epochs", "3"]
    assert words[-4:] == ["--time-limit", "90", "--run-dir", "a b"]
    context = train.make_context("train", words)
    assert {name: context.params[name] for name in arguments} == arguments


def test_the_documentation_has_a_row_for_each_declaration() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    told = [line for line in page.splitlines() if line.startswith("| `--")]
    marks = {True: "yes", False: ""}
    expected = [row(each, marks[each.vary], marks[each.resumable]) for each in declared(Settings).values()]
    assert told == [*expected, *map(row, declared(RuntimeOptions).values())]


def row(each: Declaration, *more: str) -> str:
    values = ", ".join(f"`{choice}`" for choice in each.choices) or each.expected
    if each.type is bool:
        values = "flag"
    return "| " + " | ".join([f"`{each.option}`", values, each.shown_default, each.help, *more]) + " |"
