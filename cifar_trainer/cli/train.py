"""`cifar-trainer train`."""

import contextlib
import dataclasses
import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cifar_trainer.cli.base import (
    DEFAULT_DATA_DIR,
    data_dir_option,
    explicit,
    json_option,
    print_json,
    verbosity,
    verbosity_options,
    writing,
)
from cifar_trainer.cli.console import Output
from cifar_trainer.config import DATASETS, DEVICES, PRECISIONS, VALIDATIONS, TrainConfig
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.recipes import RECIPES, get_recipe

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.cli.signals import StopRequest
    from cifar_trainer.data.dataset import Dataset
    from cifar_trainer.environment import Device
    from cifar_trainer.run import Run
    from cifar_trainer.training.checkpoint import Checkpoint


#: What drawing on a terminal that is gone raises.
_UNSEEN = contextlib.suppress(OSError, ValueError)


class TrainingDisplay:
    """A `cifar_trainer.training.trainer.Reporter` that shows what it is told on stderr."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def note(self, text: str) -> None:
        self._output.note(text)

    def warn(self, text: str) -> None:
        self._output.warn(text)

    # A terminal that goes away while a run trains must not take the run with it:
    # what is drawn may be lost, what is written to the run's folder is not.

    def epoch_begun(self, epoch: int, epochs: int, step: int, steps: int) -> None:
        if not self._output.live:
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            console=self._output.notes,
            transient=True,
        )
        self._task = self._bar.add_task(
            "", total=steps, completed=step, epoch=f"{epoch}/{epochs}", figures="starting"
        )
        with _UNSEEN:
            self._bar.start()

    def progress(
        self, step: int, loss: float, accuracy: float, images_per_second: float, seconds_left: float
    ) -> None:
        if self._bar is not None:
            # All of it fits into 80 columns, where the bar itself is left out.
            left = str(datetime.timedelta(seconds=round(seconds_left))).removeprefix("0:")
            figures = f"loss {loss:.4f} accuracy {accuracy:.2%} {images_per_second:,.0f} images/s {left} left"
            with _UNSEEN:
                self._bar.update(self._task, completed=step, figures=figures)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self.close()
        self._output.note(format_epoch(row, epochs))

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            with _UNSEEN:
                self._bar.stop()
            self._bar = None


def format_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """One line about a complete epoch."""
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"loss {row['loss']:.4f}",
        f"accuracy {row['accuracy']:6.2%}",
        f"val_loss {row['val_loss']:.4f}",
        f"val_accuracy {row['val_accuracy']:6.2%}",
        f"{row['images_per_second']:,.0f} images/s",
        f"{row['seconds']:.1f} s",
    ]
    if row.get("gpu_utilization") is not None:
        parts.append(f"GPU {row['gpu_utilization']:.0f} %")
    if row.get("power_watts") is not None:
        parts.append(f"{row['power_watts']:.0f} W")
    if row.get("energy_joules") is not None:
        parts.append(f"{row['energy_joules']:,.0f} J")
    return "  ".join(parts)


_MAKE_ROOM = "Make room, or give write access to it."


def _choices(values: tuple[str, ...]) -> str:
    return f"[{'|'.join(values)}]"


@click.command(name="train")
@click.option("--recipe", default="document", metavar=_choices(tuple(RECIPES)), help="Network and how to train it.")
@click.option("--epochs", type=int, help="Passes over the images.  [default: the recipe's; document: 10]")
@click.option("--batch-size", type=int, help="Images a step.  [default: the recipe's; document: 32]")
@click.option("--learning-rate", type=float, help="[default: the recipe's; document: 0.001]")
@click.option("--seed", type=int, default=0, help="Decides weights, order, augmentation and dropout.")
@click.option(
    "--validation",
    default="test",
    metavar=_choices(VALIDATIONS),
    help="Watch the test set, as the article does, or set aside a tenth of the training images.",
)
@click.option("--dataset", default="cifar10", metavar=_choices(DATASETS), help="What to train on.")
@data_dir_option("train")
@click.option("--run-dir", type=click.Path(path_type=Path), help="[default: runs/TIME-RECIPE]")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with a run.")
@click.option("--device", default="auto", metavar=_choices(DEVICES), help="Where to compute.")
@click.option("--precision", default="float32", metavar=_choices(PRECISIONS), help="Layers compute in it.")
@click.option("--deterministic", is_flag=True, help="On a GPU too, the same bits each time.")
@click.option("--xla/--no-xla", default=None, help="Compile with XLA.  [default: on a GPU only]")
@click.option("--limit", type=int, metavar="N", help="First N training images, stratified: a quick look.")
@click.option("--checkpoint-every", type=float, default=60.0, metavar="SECONDS", help="Inside an epoch.")
@click.option("--profile", is_flag=True, help="Trace some steps for TensorBoard's profiler.")
@click.option("--histograms", is_flag=True, help="Weights and gradient norms for TensorBoard.")
@click.option("--offline", is_flag=True, help="Never download.")
@json_option
@verbosity_options
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, resume: Path | None, **options: Any) -> None:
    """Train a model and write a run's folder.

    \b
    Examples:
      cifar-trainer train --epochs 10
      cifar-trainer train --validation holdout --seed 1 --run-dir runs/seed-1
      cifar-trainer train --resume runs/seed-1 --epochs 20

    Ctrl-C finishes the step, saves, and prints the command that resumes.
    """
    from cifar_trainer.cli.console import Output
    from cifar_trainer.cli.signals import StopRequest

    output = Output(verbosity(ctx))
    if not options["checkpoint_every"] > 0:
        raise UsageError(
            f"--checkpoint-every {options['checkpoint_every']} is out of range. Expected seconds above 0."
        )
    stop = StopRequest()
    if resume is not None:
        run, result = _resume(ctx, resume, options, output, stop)
    else:
        run, result = _start(options, output, stop)
    if result is None:
        output.note(f"Stopped and saved. Go on with:\n  {resume_command(run, options)}", wrap=False)
        ctx.exit(128 + int(stop.received or 0))
    if as_json:
        print_json(result)
    else:
        output.result(format_result(result))


def _start(
    options: dict[str, Any], output: "Output", stop: "StopRequest"
) -> "tuple[Run, dict[str, Any] | None]":
    from cifar_trainer.cli.signals import stop_on_signals
    from cifar_trainer.data.splits import check_fit
    from cifar_trainer.run import new_run

    config = new_config(options)
    dataset = _load_data(config, options, output)
    check_fit(dataset, config)
    # From here on: a download, before it, ends at once.
    with stop_on_signals(stop), new_run(options["run_dir"], config.recipe) as run:
        device = _start_tensorflow(config, output)
        from cifar_trainer import environment

        _write_settings(run, config, dataset, environment.describe_environment(device))
        _announce(config, dataset, run, device, output)
        return run, _train(config, dataset, run, None, device, options, output, stop)


def _resume(
    ctx: click.Context, path: Path, options: dict[str, Any], output: "Output", stop: "StopRequest"
) -> "tuple[Run, dict[str, Any] | None]":
    from cifar_trainer.cli.signals import stop_on_signals
    from cifar_trainer.run import hold, open_run

    if explicit(ctx, "run_dir"):
        raise UsageError(f"--resume {path} goes on in that folder; leave out --run-dir.")
    run = open_run(path)
    config = resumed_config(ctx, run.read_config(), options)
    dataset = _load_data(config, options, output)
    difference = dataset.difference_to(run.read_json(run.config).get("data"), ordered=True)
    if difference is not None:
        raise UsageError(f"{run.path} {difference}")
    with stop_on_signals(stop), hold(run):
        # Where the model is missing, the last checkpoint gives it again.
        if run.result.is_file() and run.model.is_file():
            done = run.read_json(run.result)
            if done.get("epochs", 0) >= config.epochs:
                output.note(f"{run.path} is finished: {done['epochs']} epochs. Raise --epochs to go on.")
                return run, done
        device = _start_tensorflow(config, output)
        from cifar_trainer import environment
        from cifar_trainer.training.session import find_checkpoint

        with writing(run.path, _MAKE_ROOM):
            checkpoint = find_checkpoint(run, config, TrainingDisplay(output))
        now, before = environment.describe_environment(device), run.read_json(run.environment)
        earlier = [*before.get("earlier", []), {k: v for k, v in before.items() if k != "earlier"}]
        for difference in environment.compare_environments(before, now):
            output.warn(f"{difference}: the result will not be bit-identical to an uninterrupted run.")
        _write_settings(run, config, dataset, {**now, "earlier": earlier})
        _announce(config, dataset, run, device, output)
        if checkpoint is not None:
            output.note(f"Going on after {checkpoint.epoch} epochs and {checkpoint.step} steps.")
        return run, _train(config, dataset, run, checkpoint, device, options, output, stop)


def _write_settings(
    run: "Run", config: TrainConfig, dataset: "Dataset", environment: Mapping[str, Any]
) -> None:
    from cifar_trainer import files
    from cifar_trainer.training.session import describe_data

    with writing(run.path, _MAKE_ROOM):
        files.write_json(run.environment, environment)
        files.write_json(run.config, {**config.to_json(), "data": describe_data(dataset, config)})


def new_config(options: Mapping[str, Any]) -> TrainConfig:
    """The settings of a new run: the options, and the recipe's defaults for what was left out.

    Raises:
        UsageError: a value that cannot be.
    """
    recipe = get_recipe(options["recipe"])
    defaults: dict[str, Any] = {
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
    }
    given: dict[str, Any] = {field.name: options[field.name] for field in dataclasses.fields(TrainConfig)}
    resolved: dict[str, Any] = {k: defaults.get(k) if v is None else v for k, v in given.items()}
    return TrainConfig(**resolved)


def resumed_config(ctx: click.Context, saved: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """The settings of a run that goes on: the saved ones; epochs may be raised, the device chosen anew.

    Raises:
        UsageError: another option was given with another value than the run's.
    """
    given = {
        field.name: options[field.name]
        for field in dataclasses.fields(TrainConfig)
        if explicit(ctx, field.name)
    }
    config = dataclasses.replace(saved, **given)
    differences = [
        f"--{name.replace('_', '-')} is {getattr(saved, name)} there, {value} was asked for"
        for name, value in given.items()
        if name not in ("epochs", "device") and value != getattr(saved, name)
    ]
    if config.epochs < saved.epochs:
        differences.append(
            f"--epochs is {saved.epochs} there and may only be raised, not set to {config.epochs}"
        )
    if differences:
        raise UsageError(
            f"The run cannot go on with other settings: {'; '.join(differences)}. "
            "Leave them out, or start a new run without --resume."
        )
    return config


def _load_data(config: TrainConfig, options: Mapping[str, Any], output: "Output") -> "Dataset":
    from cifar_trainer.cli.prepare import prepare_if_missing
    from cifar_trainer.data import load_dataset

    prepare_if_missing(config.dataset, options["data_dir"], offline=options["offline"], output=output)
    return load_dataset(options["data_dir"], config.dataset)


def _start_tensorflow(config: TrainConfig, output: "Output") -> "Device":
    from cifar_trainer import environment

    environment.load_tensorflow(verbose=verbosity() > 0)
    device = environment.choose_device(config.device)
    if device.warning:
        output.warn(f"Training on the CPU, although there is a GPU. {device.warning}")
    if device.kind == "cpu" and environment.is_slow(config.precision):
        output.warn(
            f"TensorFlow has no fast code for {config.precision} on this processor: it will take several "
            "times as long as float32, or far longer."
        )
    environment.configure_threads(split=get_recipe(config.recipe).splittable)
    if config.deterministic:
        environment.enable_determinism()
    return device


def _announce(
    config: TrainConfig, dataset: "Dataset", run: "Run", device: "Device", output: "Output"
) -> None:
    output.note(
        f"{config.recipe} on {dataset.title}, {config.epochs} epochs, batch {config.batch_size}, "
        f"seed {config.seed}, {config.precision}, on {device.description}\nrun: {run.path}"
    )


def _train(
    config: TrainConfig,
    dataset: "Dataset",
    run: "Run",
    checkpoint: "Checkpoint | None",
    device: "Device",
    options: Mapping[str, Any],
    output: "Output",
    stop: "StopRequest",
) -> dict[str, Any] | None:
    from cifar_trainer.training.session import Options, train

    display = TrainingDisplay(output)
    try:
        result = train(
            config,
            dataset,
            run,
            checkpoint,
            display,
            Options(
                gpu=device.kind == "gpu",
                gpu_bus_id=device.bus_id,
                should_stop=lambda: bool(stop),
                checkpoint_every=options["checkpoint_every"],
                profile=options["profile"],
                histograms=options["histograms"],
            ),
        )
        return None if result is None else result.to_json()
    except OSError as error:
        raise RunError(
            f"{run.path} could not be written: {error.strerror}. The last checkpoint is whole; make room, "
            f"then go on with: {resume_command(run, options)}"
        ) from error
    finally:
        display.close()


def resume_command(run: "Run", options: Mapping[str, Any]) -> str:
    """The command that goes on with a run, ready to paste into a shell."""
    words = ["cifar-trainer", "train", "--resume", str(run.path)]
    if options["data_dir"] != DEFAULT_DATA_DIR:
        words += ["--data-dir", str(options["data_dir"])]
    return shlex.join(words)


def format_result(result: Mapping[str, Any]) -> str:
    """What a finished run says for itself, in a few lines."""
    train, validation = result["train"], result["validation"]
    watched = "test set" if validation["split"] == "test" else "held-out training images"
    return (
        f"{result['epochs']} epochs in {result['seconds']:.1f} s, "
        f"{result['images_per_second']:,.0f} images/s\n"
        f"train       loss {train['loss']:.4f}  accuracy {train['accuracy']:.2%}\n"
        f"validation  loss {validation['loss']:.4f}  accuracy {validation['accuracy']:.2%}  ({watched})\n"
        f"weights     sha256 {result['weights_sha256']}\n"
        f"model       {result['run_dir']}/model.keras"
    )
