"""`cifar-trainer train`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import PathType, RunType, data_dir_option, make_command
from cifar_trainer.cli.options import choices, setting_options, without_none
from cifar_trainer.errors import TrainingStopped, UsageError, counted
from cifar_trainer.settings import STACKS, VALIDATIONS, RuntimeOptions, Settings, command_words, declared
from cifar_trainer.training.distributed import choose_gpus, find_cluster, train_together

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.run import TrainResult
    from cifar_trainer.training.api import GroupResult


@make_command("train")
@click.option("--run-dir", type=PathType(), help="Folder of the new run.  [default: runs/TIME-RECIPE]")
@data_dir_option("Folder of the prepared data sets.  [default: data, or a resumed run's own]")
@click.option("--resume", type=RunType(), metavar="RUN", help="Resume this run, or this group of runs.")
@click.option(
    "--from-trial",
    metavar="SWEEP:NUMBER",
    help="Take the settings of a sweep's trial; options given here override them.",
)
@setting_options(declared(Settings).values())
@click.option("--seeds", metavar="N|LIST", help="Train N runs, or one for each seed of a list such as 1,2,3.")
@click.option(
    "--stack",
    metavar=choices(STACKS),
    help="Train the --seeds side by side in one program; auto does so on a GPU.  [default: auto]",
)
@click.option(
    "--gpus", metavar="N|all", help="Split each batch over N GPUs of this machine, one process each."
)
@setting_options(declared(RuntimeOptions).values())
def command(
    output: "Output",
    /,
    resume: Path | None,
    from_trial: str | None,
    seeds: str | None,
    stack: str | None,
    gpus: str | None,
    **options: Any,
) -> None:
    """Train a model and write a run folder.

    \b
    Examples:
      cifar-trainer train --epochs 10
      cifar-trainer train --validation holdout --seed 1 --run-dir runs/seed-1
      cifar-trainer train --resume runs/seed-1 --epochs 20
      cifar-trainer train --seeds 5 --run-dir runs/five
      cifar-trainer train --recipe ./my_recipe.py
      cifar-trainer train --epochs 40 --validation holdout --patience 5 --keep best

    Ctrl-C finishes the current step, saves a checkpoint, and prints the command that resumes.
    """
    from cifar_trainer.cli.displays import TrainingDisplay
    from cifar_trainer.run import TrainResult
    from cifar_trainer.training import api

    options = without_none(options)
    if seeds is None and stack is not None:
        raise UsageError(f"--stack {stack} is for several seeds. Add --seeds, or leave it out.")
    if seeds is not None and (resume is not None or "seed" in options):
        other = "--resume" if resume is not None else "--seed"
        raise UsageError(f"--seeds {seeds} cannot be combined with {other}. Leave one of them out.")
    if resume is not None and "run_dir" in options:
        raise UsageError(f"--resume {resume} continues in that folder; leave out --run-dir.")
    if from_trial is not None:
        if resume is not None:
            raise UsageError("--from-trial starts a new run, --resume continues one. Leave one of them out.")
        # Reads a file: neither Optuna nor the sweep's database is needed.
        from cifar_trainer.sweeps.result import trial_settings

        settings = trial_settings(from_trial)
        if seeds is not None:
            del settings["seed"]
        options = {**settings, **options}
    if gpus is not None:
        if seeds is not None:
            raise UsageError(f"--gpus {gpus} cannot be combined with --seeds {seeds}. Leave one of them out.")
        chosen = choose_gpus(gpus, options.get("device", "auto"))
        if len(chosen) > 1:
            words = ["train", *command_words({**options, "resume": resume, "json": output.as_json})]
            words += {1: ["--verbose"], -1: ["--quiet"]}.get(output.verbosity, [])
            raise click.exceptions.Exit(train_together(words, chosen))
    cluster = find_cluster()
    is_worker = cluster is not None and not cluster.is_chief
    if is_worker:
        # Only the chief prints.
        output.verbosity = -1
    with TrainingDisplay(output) as display:
        common: dict[str, Any] = {
            "reporter": display,
            "should_stop": display.should_stop,
            "verbose": output.verbose,
        }
        result: TrainResult | GroupResult
        try:
            if resume is not None:
                result = api.resume(resume, **options, **common)
            else:
                result = api.train(seeds=seeds, stack=stack or "auto", **options, **common)
        except TrainingStopped as error:
            again = {name: options.get(name) for name in ("data_dir", "time_limit")}
            words = ["cifar-trainer", "train", *command_words({"resume": error.run_dir, **again})]
            display.exit_stopped(f"Resume with:\n  {shlex.join(words)}")
    if not is_worker:
        output.result(result, format_training)
        if isinstance(result, TrainResult):
            output.note(f"next: cifar-trainer evaluate {shlex.quote(result.run_dir)}", wrap=False)


def format_training(result: "TrainResult | GroupResult") -> str:
    """The text for a finished run or a group of runs."""
    from cifar_trainer.run import TrainResult

    return format_result(result) if isinstance(result, TrainResult) else format_group(result)


def format_result(result: "TrainResult") -> str:
    """A finished run in a few lines."""
    train, validation = result.train, result.validation
    chosen = ""
    if result.chosen_by != "last epoch":
        epoch = "" if result.chosen_epoch is None else f" of epoch {result.chosen_epoch}"
        chosen = f"weights{epoch}, chosen by: {result.chosen_by}\n"
    split = VALIDATIONS[str(validation["split"])]
    return (
        f"{counted(result.epochs, 'epoch')} in {result.seconds:.1f} s, "
        f"{result.images_per_second:,.0f} images/s\n"
        f"{chosen}"
        f"train       loss {train['loss']:.4f}  accuracy {train['accuracy']:.2%}\n"
        f"validation  loss {validation['loss']:.4f}  accuracy {validation['accuracy']:.2%}  ({split})\n"
        f"weights     {result.weights_sha256}\n"
        f"model       {result.run_dir}/model.keras"
    )


def format_group(group: "GroupResult") -> str:
    """One line per run, then the mean, standard deviation and interval of the group."""
    lines = [
        f"seed {run.seed:<4} accuracy {run.validation['accuracy']:.2%}  loss {run.validation['loss']:.4f}  "
        f"{run.seconds:.1f} s  {run.run_dir}"
        for run in group.runs
    ]
    accuracy = group.accuracy
    mean = f"mean {accuracy.mean:.2%} of {counted(accuracy.n, 'run')}"
    if accuracy.n == 2:
        mean += "; two runs do not show how much runs vary"
    elif accuracy.standard_deviation is not None and accuracy.interval is not None:
        low, high = accuracy.interval
        mean += (
            f", standard deviation {accuracy.standard_deviation:.2%}, "
            f"95 % interval of the mean {low:.2%} to {high:.2%}"
        )
    return "\n".join([*lines, mean, f"compare them: cifar-trainer compare {group.group_dir}/seed-*"])
