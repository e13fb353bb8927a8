"""Train, evaluate and export image classifiers with Keras.

Each `cifar-trainer` command is also a function, for scripts and notebooks:

    import cifar_trainer

    cifar_trainer.prepare("cifar10")
    result = cifar_trainer.train(epochs=10, seed=0)
    report = cifar_trainer.evaluate(result.run_dir)

Arguments are named after the command's options. Each function returns a result whose `to_json()` is what the
command prints with `--json`. Errors are in `cifar_trainer.errors`.

Importing this package is fast: TensorFlow is imported by the first call that needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cifar_trainer import errors

if TYPE_CHECKING:
    from cifar_trainer.artefacts.export import export as export
    from cifar_trainer.benchmarking import benchmark as benchmark
    from cifar_trainer.checks.data import check_data as check_data
    from cifar_trainer.checks.training import check_training as check_training
    from cifar_trainer.comparison import compare as compare
    from cifar_trainer.data.prepare import prepare as prepare
    from cifar_trainer.devices.survey import environment as environment
    from cifar_trainer.evaluation.evaluate import evaluate as evaluate
    from cifar_trainer.explanation import explain as explain
    from cifar_trainer.prediction import predict as predict
    from cifar_trainer.recipes.catalogue import list_recipes as list_recipes
    from cifar_trainer.run import list_runs as list_runs
    from cifar_trainer.run import open_run as load_run  # noqa: F401
    from cifar_trainer.serving.server import serve as serve
    from cifar_trainer.sweeps.sweep import sweep as sweep
    from cifar_trainer.training.api import reproduce as reproduce
    from cifar_trainer.training.api import resume as resume
    from cifar_trainer.training.api import train as train

__version__ = "0.1.0"

#: The module of each API function, and its name in that module.
_FUNCTIONS = {
    "benchmark": ("benchmarking", "benchmark"),
    "check_data": ("checks.data", "check_data"),
    "check_training": ("checks.training", "check_training"),
    "compare": ("comparison", "compare"),
    "environment": ("devices.survey", "environment"),
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "explain": ("explanation", "explain"),
    "export": ("artefacts.export", "export"),
    "list_recipes": ("recipes.catalogue", "list_recipes"),
    "list_runs": ("run", "list_runs"),
    "load_run": ("run", "open_run"),
    "predict": ("prediction", "predict"),
    "prepare": ("data.prepare", "prepare"),
    "reproduce": ("training.api", "reproduce"),
    "resume": ("training.api", "resume"),
    "serve": ("serving.server", "serve"),
    "sweep": ("sweeps.sweep", "sweep"),
    "train": ("training.api", "train"),
}

__all__ = [*sorted(_FUNCTIONS), "__version__", "errors"]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _FUNCTIONS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return __all__
