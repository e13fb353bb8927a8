"""`cifar-trainer train`."""

import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import (
    Duration,
    PathType,
    data_dir_option,
    explicit,
    json_option,
    print_json,
    verbosity,
    verbosity_options,
)
from cifar_trainer.cli.gpus import choose_gpus, train_together, without_gpus
from cifar_trainer.cli.signals import StopRequest
from cifar_trainer.devices.cluster import find_cluster
from cifar_trainer.errors import TrainingStopped, UsageError
from cifar_trainer.recipes import RECIPES
from cifar_trainer.settings import (
    CLASS_WEIGHTS,
    CONVOLUTIONS,
    DEVICES,
    KEEPS,
    PRECISIONS,
    SCHEDULES,
    STACKS,
    VALIDATIONS,
    WATCHED,
)

if TYPE_CHECKING:
    from cifar_trainer.run import TrainResult
    from cifar_trainer.training.seeds import GroupResult


def _choices(values: Iterable[str]) -> str:
    return f"[{'|'.join(values)}]"


@click.command(name="train")
@click.option(
    "--recipe",
    default="document",
    metavar=_choices([*RECIPES, "FILE.py"]),
    help="Network and training; a FILE.py of your own is run, and copied into the run.",
)
@click.option("--epochs", type=int, help="Passes over the training images.  [default: the recipe's]")
@click.option("--batch-size", type=int, help="Images a step.  [default: the recipe's]")
@click.option("--learning-rate", type=float, help="Peak learning rate.  [default: the recipe's]")
@click.option("--seed", type=int, default=0, help="Seed of weights, order, augmentation and dropout.")
@click.option("--seeds", metavar="N|LIST", help="Train N runs, or one for each seed of a list such as 1,2,3.")
@click.option(
    "--stack",
    default="auto",
    metavar=_choices(STACKS),
    help="Train the --seeds side by side in one program; auto does on a GPU.",
)
@click.option(
    "--validation",
    default="test",
    metavar=_choices(VALIDATIONS),
    help="Validate on the test set, as the tutorial does; on a tenth of the training images, held out; or on "
    "a tenth of those trained on, which leaves the test set unseen and holds nothing out.",
)
@click.option("--dataset", default="cifar10", metavar="NAME", help="Data set to train on.")
@data_dir_option("train", help="Folder of the prepared data sets.  [default: data, or a resumed run's own]")
@click.option("--run-dir", type=PathType(), help="Folder of the new run.  [default: runs/TIME-RECIPE]")
@click.option("--resume", type=PathType(), metavar="RUN", help="Resume this run.")
@click.option(
    "--from-trial",
    metavar="SWEEP:NUMBER",
    help="Take the settings of a sweep's trial; others given here win.",
)
@click.option("--device", default="auto", metavar=_choices(DEVICES), help="Where to compute.")
@click.option(
    "--gpus", metavar="N|all", help="Share each batch among so many GPUs of this machine, a process each."
)
@click.option(
    "--precision",
    default="float32",
    metavar=_choices(PRECISIONS),
    help="Compute dtype of the layers; weights stay float32.",
)
@click.option("--deterministic", is_flag=True, help="Bit-reproducible on a GPU too.")
@click.option("--xla/--no-xla", default=None, help="Compile the loop with XLA.  [default: on a GPU only]")
@click.option(
    "--conv",
    default="auto",
    metavar=_choices(CONVOLUTIONS),
    help="How convolutions are computed; auto is matmul for small ones on a GPU.",
)
@click.option("--limit", type=int, metavar="N", help="Train on the first N images, stratified.")
@click.option(
    "--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="Also checkpoint within an epoch."
)
@click.option(
    "--schedule",
    metavar=_choices(SCHEDULES),
    help="Learning rate over the run; plateau halves it when validation stalls.  [default: the recipe's]",
)
@click.option("--warmup", type=float, metavar="EPOCHS", help="Raise the learning rate over these epochs.")
@click.option(
    "--weight-decay", type=float, help="Decoupled weight decay of the kernels.  [default: the recipe's]"
)
@click.option(
    "--label-smoothing",
    type=float,
    help="Share of the target for all classes, 0 to 1.  [default: the recipe's]",
)
@click.option(
    "--ema", type=float, metavar="MOMENTUM", help="Validate and keep a moving average of the weights."
)
@click.option(
    "--patience",
    type=int,
    metavar="EPOCHS",
    help="End after so many epochs without a better validation accuracy.",
)
@click.option("--keep", default="last", metavar=_choices(KEEPS), help="Epoch whose weights the model has.")
@click.option("--class-weights", metavar=_choices(CLASS_WEIGHTS), help="Weigh rare classes more.")
@click.option(
    "--time-limit",
    type=Duration(),
    metavar="TIME",
    help="End with the last epoch that fits, such as 90s, 10m or 2h.",
)
@click.option("--profile", is_flag=True, help="Trace some steps for TensorBoard's profiler.")
@click.option("--histograms", is_flag=True, help="Log weights and gradient norms to TensorBoard.")
@click.option("--offline", is_flag=True, help="Never download.")
@json_option
@verbosity_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    as_json: bool,
    resume: Path | None,
    from_trial: str | None,
    seeds: str | None,
    gpus: str | None,
    stack: str,
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
    from cifar_trainer.cli.console import Output
    from cifar_trainer.cli.prepare import reporting
    from cifar_trainer.cli.training_display import TrainingDisplay
    from cifar_trainer.training import session
    from cifar_trainer.training.seeds import GroupResult, is_group, parse_seeds, resume_seeds, train_seeds

    if seeds is None and explicit(ctx, "stack"):
        raise UsageError(f"--stack {stack} is about several seeds. Give --seeds, or leave it out.")
    if seeds is not None and (resume is not None or explicit(ctx, "seed")):
        other = "--resume" if resume is not None else "--seed"
        raise UsageError(f"--seeds {seeds} does not go with {other}. Leave one of them out.")
    if from_trial is not None:
        if resume is not None:
            raise UsageError(
                "--from-trial begins a new run and --resume goes on with one. Leave one of them out."
            )
        # Reads a file: neither Optuna nor the sweep's database is needed.
        from cifar_trainer.sweeps.record import trial_settings

        options |= {k: v for k, v in trial_settings(from_trial).items() if not explicit(ctx, k)}
    if gpus is not None:
        if seeds is not None:
            raise UsageError(f"--gpus {gpus} does not go with --seeds {seeds}. Leave one of them out.")
        chosen = choose_gpus(gpus, options["device"])
        if len(chosen) > 1:
            ctx.exit(train_together(without_gpus(sys.argv[1:]), chosen))
    cluster = find_cluster()
    follows = cluster is not None and not cluster.is_chief
    # The first process speaks for all.
    output, stop = Output(-1 if follows else verbosity(ctx)), StopRequest()
    with reporting(output) as prepare_reporter, TrainingDisplay(output, prepare_reporter, stop) as display:
        common: dict[str, Any] = {
            "reporter": display,
            "should_stop": lambda: bool(stop),
            "verbose": verbosity(ctx) > 0,
        }
        result: TrainResult | GroupResult
        try:
            if resume is not None:
                go_on = resume_seeds if is_group(resume) else session.resume
                result = go_on(resume, **_resume_options(ctx, resume, options), **common)
            else:
                given = {name: value for name, value in options.items() if value is not None}
                if seeds is None:
                    result = session.train(**given, **common)
                else:
                    del given["seed"]
                    result = train_seeds(parse_seeds(seeds), stack=stack, **given, **common)
        except TrainingStopped as error:
            command_line = shlex.join(
                _resume_command(error.run_dir, options["data_dir"], options["time_limit"])
            )
            output.note(f"Stopped and saved. Resume with:\n  {command_line}", wrap=False)
            # Another process may have had the signal.
            ctx.exit(128 + int(stop.received or signal.SIGTERM))
    if follows:
        return
    if as_json:
        print_json(result.to_json())
    else:
        output.result(format_group(result) if isinstance(result, GroupResult) else format_result(result))


#: What may be chosen anew at a resume, besides what the run has recorded.
_NOT_SETTINGS = ("data_dir", "run_dir", "time_limit", "checkpoint_every", "profile", "histograms", "offline")


def _resume_options(ctx: click.Context, run: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `train` as the arguments of `resume`; settings only where they were given."""
    if explicit(ctx, "run_dir"):
        raise UsageError(f"--resume {run} goes on in that folder; leave out --run-dir.")
    settings = {
        name: value for name, value in options.items() if name not in _NOT_SETTINGS and explicit(ctx, name)
    }
    changes: dict[str, Any] = {name: settings.pop(name) for name in ("epochs", "device") if name in settings}
    others = {name: options[name] for name in _NOT_SETTINGS if name not in ("run_dir", "offline")}
    return {"settings": settings, **changes, **others}


def _resume_command(run_dir: Path, data_dir: Path | None, time_limit: float | None) -> list[str]:
    """The command that resumes a run as it was begun. The run knows where its data are."""
    words = ["cifar-trainer", "train", "--resume", str(run_dir)]
    if data_dir is not None:
        words += ["--data-dir", str(data_dir)]
    return words if time_limit is None else [*words, "--time-limit", f"{time_limit:.12g}s"]


def format_result(result: "TrainResult") -> str:
    """A finished run in a few lines."""
    train, validation = result.train, result.validation
    chosen = ""
    if result.chosen_by != "last epoch":
        epoch = "" if result.chosen_epoch is None else f" of epoch {result.chosen_epoch}"
        chosen = f"weights{epoch}, chosen by: {result.chosen_by}\n"
    watched = WATCHED[str(validation["split"])]
    return (
        f"{result.epochs} epochs in {result.seconds:.1f} s, "
        f"{result.images_per_second:,.0f} images/s\n"
        f"{chosen}"
        f"train       loss {train['loss']:.4f}  accuracy {train['accuracy']:.2%}\n"
        f"validation  loss {validation['loss']:.4f}  accuracy {validation['accuracy']:.2%}  ({watched})\n"
        f"weights     sha256 {result.weights_sha256}\n"
        f"model       {result.run_dir}/model.keras"
    )


def format_group(group: "GroupResult") -> str:
    """The runs of a group, a line each, and what they give together."""
    lines = [
        f"seed {run.seed:<4} accuracy {run.validation['accuracy']:.2%}  loss {run.validation['loss']:.4f}  "
        f"{run.seconds:.1f} s  {run.run_dir}"
        for run in group.runs
    ]
    accuracy = group.accuracy
    mean = f"mean {accuracy.mean:.2%} of {accuracy.n} {'run' if accuracy.n == 1 else 'runs'}"
    if accuracy.standard_deviation is not None and accuracy.interval is not None:
        low, high = accuracy.interval
        mean += (
            f", standard deviation {accuracy.standard_deviation:.2%}, "
            f"95 % interval of the mean {low:.2%} to {high:.2%}"
        )
    return "\n".join([*lines, mean, f"compare them: cifar-trainer compare {group.group_dir}/seed-*"])
