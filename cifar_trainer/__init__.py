"""Train, evaluate and export image classifiers with Keras.

The commands of `cifar-trainer` call these functions, and so can a notebook:

    import cifar_trainer

    cifar_trainer.prepare("cifar10")
    result = cifar_trainer.train(epochs=10, seed=0)
    report = cifar_trainer.evaluate(result.run_dir)

Importing this package takes no time; TensorFlow comes with the first call that computes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cifar_trainer import errors

if TYPE_CHECKING:
    from cifar_trainer.artefacts.export import export as export
    from cifar_trainer.data.prepare import prepare as prepare
    from cifar_trainer.evaluation.evaluate import evaluate as evaluate
    from cifar_trainer.prediction import predict as predict
    from cifar_trainer.run import open_run as load_run  # noqa: F401
    from cifar_trainer.training.session import resume as resume
    from cifar_trainer.training.session import train as train

__version__ = "0.1.0"

#: Why it ends at once on native Windows, which has neither flock nor SIGHUP.
UNSUPPORTED = "cifar-trainer runs on Linux and macOS. On Windows, install and run it inside WSL 2."

#: Where each function of the API stands.
_FUNCTIONS = {
    "evaluate": ("evaluation.evaluate", "evaluate"),
    "export": ("artefacts.export", "export"),
    "load_run": ("run", "open_run"),
    "predict": ("prediction", "predict"),
    "prepare": ("data.prepare", "prepare"),
    "resume": ("training.session", "resume"),
    "train": ("training.session", "train"),
}

__all__ = [*sorted(_FUNCTIONS), "__version__", "errors"]


def __getattr__(name: str) -> Any:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _FUNCTIONS[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), function)


def __dir__() -> list[str]:
    return __all__
