"""The command line. Only this package uses Click and exit codes.

Each command is a module that parses its arguments, calls one function and prints the
result. Modules are imported on demand, and do not import TensorFlow until the arguments
have been checked.
"""

import importlib

import click

from cifar_trainer import __version__
from cifar_trainer.cli.base import Group, verbosity_options

#: Commands and their short help, in the order of a first tour.
COMMANDS = {
    "prepare": "Download or import a data set.",
    "train": "Train a model, or resume a run.",
    "evaluate": "Measure a model and write a report.",
    "export": "Export a model to SavedModel, Keras, LiteRT or ONNX.",
    "predict": "Classify images.",
    "explain": "Explain predictions on a page.",
    "serve": "Classify images over HTTP.",
    "sweep": "Search for good settings with Optuna.",
    "recipes": "List recipes, and draw augmented images.",
    "runs": "List runs.",
    "compare": "Compare runs.",
    "check": "Check data or training.",
    "reproduce": "Train a run again and check that the weights are the same.",
    "benchmark": "Measure the speed of inference or training.",
    "env": "Show versions and devices, and what is missing to use a GPU.",
}


class _LazyGroup(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"cifar_trainer.cli.{name}")
        command: click.Command = module.command
        command.short_help = COMMANDS[name]
        return command


@click.group(
    cls=_LazyGroup,
    params=verbosity_options(),
    context_settings={
        "auto_envvar_prefix": "CIFAR_TRAINER",
        "help_option_names": ["-h", "--help"],
        "show_default": True,
    },
)
@click.version_option(__version__, prog_name="cifar-trainer", allow_from_autoenv=False)
def main() -> None:
    """Train, evaluate and export image classifiers.

    \b
    A first tour:
      cifar-trainer prepare
      cifar-trainer train --epochs 10
      cifar-trainer evaluate
      cifar-trainer export
      tensorboard --logdir runs
    """
