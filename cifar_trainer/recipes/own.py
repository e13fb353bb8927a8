"""Custom recipes: a Python file that defines one `Recipe`. Loading the file executes it.

The recipe's functions are wrapped: their output goes to stderr, their exceptions become one message with the
line number, and their return values are checked.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import logging
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import devices
from cifar_trainer.errors import CifarTrainerError, RunError, UsageError
from cifar_trainer.files import sha256_bytes, sha256_file
from cifar_trainer.recipes.recipe import Batch, Recipe, RecipeFile, augmented
from cifar_trainer.settings import Settings, declared

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

log = logging.getLogger(__name__)

#: A recipe's name becomes part of a folder's name.
_NAME = re.compile(r"\w[\w .+-]{0,79}")


def load_recipe(path: Path) -> Recipe:
    """Load the recipe that a file defines, set its `file`, and wrap its functions.

    Raises:
        UsageError: the file cannot be read, raises an exception, or does not define exactly one valid
            `Recipe`. The message has the line if it is known.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--recipe {path} cannot be read: {error.strerror}. Expected the name of a recipe, or a Python "
            "file that defines one."
        ) from error
    # The file imports Keras, which must be configured as for training.
    devices.prepare()
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with _running(path):
        exec(compile(content, str(path), "exec"), module.__dict__)
    recipes = list(
        {id(value): value for value in vars(module).values() if isinstance(value, Recipe)}.values()
    )
    if len(recipes) != 1:
        names = ", ".join(recipe.name for recipe in recipes)
        problem = f"defines {len(recipes)} recipes ({names})" if recipes else "defines no recipe"
        raise UsageError(
            f"--recipe {path} {problem}. Expected one: RECIPE = Recipe(name=..., ...), with Recipe imported "
            "from cifar_trainer.recipes."
        )
    file = RecipeFile(path, content, sha256_bytes(content))
    # Threads are configured before the file is loaded, so a custom recipe cannot be splittable.
    return _File(path, content).wrapped(dataclasses.replace(recipes[0], file=file, splittable=False))


def load_copy(path: Path, sha256: str | None) -> Recipe:
    """Load the recipe from a run's copy of a file, after checking the copy's hash.

    Raises:
        RunError: the copy is missing, or has changed.
        UsageError: as in `load_recipe`.
    """
    check_copy(path, sha256)
    return load_recipe(path)


def check_copy(path: Path, sha256: str | None) -> None:
    """Raise RunError if a run's copy of a recipe's file is missing or has changed. Does not execute it."""
    actual = sha256_file(path) if path.is_file() else "missing"
    if actual != sha256:
        raise RunError(
            f"{path} is not the recipe that the run was started with: its SHA-256 is {actual}, expected "
            f"{sha256}. Restore the original."
        )


@contextlib.contextmanager
def naming_the_line(path: Path | None) -> Iterator[None]:
    """Turn an exception from a recipe's file into one message with the line; does nothing if `path` is None.

    Raises:
        UsageError: code in the file raised an exception.
    """
    try:
        yield
    except CifarTrainerError:
        raise
    except (Exception, SystemExit) as error:
        line = _line_of(error, path)
        if path is None or line is None:
            raise
        kind = type(error).__name__
        text = _first_line(error)
        if isinstance(error, SystemExit):
            text = "the file exits the program. Put script code below if __name__ == '__main__'."
        raise UsageError(f"--recipe {path}, line {line}: {kind}: {text}") from error


def _line_of(error: BaseException, path: Path | None) -> int | None:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)


@contextlib.contextmanager
def _running(path: Path) -> Iterator[None]:
    """Run a recipe's code with output to stderr, and without this program's options in sys.argv."""
    argv = sys.argv
    sys.argv = [str(path)]
    try:
        with contextlib.redirect_stdout(sys.stderr), naming_the_line(path):
            yield
    finally:
        sys.argv = argv


class _File:
    """A recipe's file, for messages with line numbers.

    Args:
        path, content: path and content of the file.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path = path
        calls = (node for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Call))
        # Line numbers of the arguments of Recipe(...).
        self._lines = {
            keyword.arg: keyword.value.lineno
            for call in calls
            if ast.unparse(call.func).endswith("Recipe")
            for keyword in call.keywords
        }

    def wrapped(self, recipe: Recipe) -> Recipe:
        """Check a recipe's values, and wrap its functions."""
        if not isinstance(recipe.name, str) or not _NAME.fullmatch(recipe.name):
            raise self._fault(
                "name",
                f"the name {recipe.name!r} cannot be part of a folder's name. Expected up to 80 letters, "
                "digits, spaces, '-', '_' or '.'.",
            )
        for name, declaration in declared(Settings).items():
            try:
                if declaration.of_recipe:
                    declaration.check(getattr(recipe, name))
            except UsageError as error:
                raise self._fault(name, str(error).removeprefix("--")) from error
        functions: dict[str, Any] = {}
        for name, (arguments, check) in _FUNCTIONS.items():
            function = getattr(recipe, name)
            if function is not None:
                self._check_signature(name, function, arguments)
                functions[name] = self._wrap(name, function, check)
        return dataclasses.replace(recipe, **functions)

    def _check_signature(self, name: str, function: Any, arguments: tuple[str, ...]) -> None:
        call = f"{name}({', '.join(arguments)})"
        if not callable(function):
            raise self._fault(name, f"{name} is {_describe(function)}. Expected a function {call}.")
        try:
            signature = inspect.signature(function)
        except ValueError:
            # Functions in C may have no signature.
            return
        try:
            signature.bind(*arguments)
        except TypeError as error:
            raise self._fault(name, f"{name} cannot be called as {call}: {error}.", function) from error

    def _wrap(self, name: str, function: Callable[..., Any], check: "_Check") -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            with _running(self._path):
                result = function(*arguments)
            problem = check(result, *arguments)
            if problem is not None:
                raise self._fault(name, f"{name} returned {problem}", function)
            return result

        return call

    def _fault(self, name: str, text: str, function: Any = None) -> UsageError:
        """The error for a function or another value of the recipe."""
        line = self._lines.get(name)
        code = getattr(function, "__code__", None)
        if code is not None and code.co_filename == str(self._path):
            line = code.co_firstlineno
        where = "" if line is None else f", line {line}"
        return UsageError(f"--recipe {self._path}{where}: {text}")


def _anything(*_: Any) -> None:
    """Accept any value."""


def _check_model(model: Any, image_shape: tuple[int, int, int], classes: int) -> str | None:
    import keras

    expected = (
        f"Expected a keras.Model of uint8 images {(None, *image_shape)} to float32 logits {(None, classes)}"
    )
    if not isinstance(model, keras.Model):
        return f"{_describe(model)}. {expected}."
    try:
        inputs, outputs = model.inputs, model.outputs
    except AttributeError:
        return (
            f"a {type(model).__name__} without inputs. {expected}: a functional model, or a Sequential one "
            "that begins with keras.Input(image_shape, dtype='uint8', name='images')."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        return f"a network with {len(inputs)} inputs and {len(outputs)} outputs. {expected}."
    if tuple(inputs[0].shape) != (None, *image_shape):
        return f"a network whose input has the shape {tuple(inputs[0].shape)}. {expected}."
    if tuple(outputs[0].shape) != (None, classes):
        return f"a network whose output has the shape {tuple(outputs[0].shape)}. {expected}."
    if outputs[0].dtype != "float32":
        return (
            f"a network whose output is {outputs[0].dtype}. {expected}: its last layer needs dtype='float32'."
        )
    for layer in model._flatten_layers(include_self=False):
        kind = type(layer)
        if kind.__module__.split(".")[0] != "keras" or kind.__name__ == "Lambda":
            return (
                f"a network with the layer {layer.name!r}, a {kind.__name__}. A saved model contains no "
                "Python code, so this layer could not be loaded again. Use Keras's layers, such as Rescaling."
            )
    return None


def _check_optimizer(optimizer: Any, *_: Any) -> str | None:
    import keras

    expected = keras.optimizers.Optimizer
    return None if isinstance(optimizer, expected) else _not_a(optimizer, "a keras.optimizers.Optimizer")


def _check_loss(loss: Any) -> str | None:
    import keras

    return None if isinstance(loss, keras.losses.Loss) else _not_a(loss, "a keras.losses.Loss")


def _check_images(images: Any, batch: Batch) -> str | None:
    shape = batch.images.shape
    return None if _fits(images, shape) else _not_a(images, f"images of the shape {tuple(shape)}")


def _check_logits(logits: Any, model: "keras.Model", images: Any) -> str | None:
    shape = (None, model.output_shape[-1])
    return None if _fits(logits, shape) else _not_a(logits, f"logits of the shape {shape}")


def _not_a(value: Any, expected: str) -> str:
    return f"{_describe(value)}. Expected {expected}."


#: Checks a function's return value, given its arguments; returns the problem, or None.
_Check = Callable[..., str | None]
#: The functions of a recipe: their arguments, and the check of their return value.
_FUNCTIONS: dict[str, tuple[tuple[str, ...], _Check]] = {
    "build_model": (("image_shape", "classes"), _check_model),
    "build_optimizer": (("learning_rate", "total_steps"), _check_optimizer),
    "loss": ((), _check_loss),
    "augment": (("batch",), _check_images),
    "initialize": (("model", "images"), _anything),
    "predict": (("model", "images"), _check_logits),
}


def _fits(tensor: Any, shape: "tf.TensorShape | tuple[int | None, ...]") -> bool:
    import tensorflow as tf

    return hasattr(tensor, "shape") and tf.TensorShape(shape).is_compatible_with(tensor.shape)


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + ("" if shape is None else f" of the shape {tuple(shape)}")


def check_network(recipe: Recipe, model: "keras.Model") -> None:
    """Test the network and loss of a custom recipe on two images; does nothing for built-in recipes.

    Raises:
        UsageError: the network ends in a softmax, the loss does not accept its logits or does not favour the
            label, the network cannot be loaded without the recipe's file, or the recipe freezes a variable
            that does not exist.

    Logs a warning if the pixels are scaled badly, a nonlinearity is missing or a layer is frozen.
    """
    if recipe.file is None:
        return
    import numpy as np

    from cifar_trainer.recipes import diagnosis

    path, classes = recipe.file.path, model.output_shape[-1]
    images = np.random.default_rng(0).integers(0, 256, (2, *model.input_shape[1:]), np.uint8)
    with _running(path):
        logits = np.asarray(model(images, training=False))
    if fault := diagnosis.softmax_fault(logits):
        raise UsageError(f"--recipe {path}: {fault}")
    loss = recipe.loss()
    with _failing_with(path, f"the loss does not accept integer labels [B] and logits [B, {classes}]"):
        value = np.asarray(loss(np.zeros(2, np.uint8), logits))
        fault = None if value.ndim > 1 else diagnosis.loss_fault(loss, classes)
    if value.ndim > 1:
        raise UsageError(f"--recipe {path}: the loss returned {_not_a(value, 'one number per image')}")
    if fault:
        raise UsageError(f"--recipe {path}: {fault}")
    check_loadable(recipe, model)
    for scale in {*recipe.scales} - {1.0}:
        _check_scale(recipe, model, scale)
    for end in recipe.frozen:
        if not any(variable.path.endswith(end) for variable in model.trainable_variables):
            raise UsageError(f"--recipe {path}: frozen has {end!r}, but no trained variable's path ends so")
    for warning in _doubts(recipe, model, images):
        log.warning("--recipe %s: %s", path, warning)


def _check_scale(recipe: Recipe, model: "keras.Model", scale: float) -> None:
    import tensorflow as tf

    from cifar_trainer.model import accepting

    assert recipe.file is not None
    height, width, channels = model.input_shape[1:]
    with _failing_with(recipe.file.path, f"the network does not accept images scaled by {scale}"):
        accepting(model, tf.zeros([1, round(scale * height), round(scale * width), channels]))


def check_loadable(recipe: Recipe, model: "keras.Model") -> None:
    """Load the network of a custom recipe from its description, as in a process without the recipe's file.

    Raises:
        UsageError: it cannot be loaded.
    """
    if recipe.file is None:
        return
    import keras

    known = keras.saving.get_custom_objects()
    registered = dict(known)
    known.clear()
    try:
        with _failing_with(
            recipe.file.path,
            "the network cannot be loaded without this file; use Keras's layers and functions",
        ):
            keras.models.model_from_json(model.to_json())
    finally:
        known.update(registered)


def _doubts(recipe: Recipe, model: "keras.Model", images: "np.ndarray") -> Iterator[str]:
    """Probable mistakes in a custom recipe that do not prevent training."""
    from cifar_trainer.recipes import diagnosis

    trained = augmented(recipe, images, 1)[0]
    spreads = [diagnosis.input_spread(model, each) for each in (images, trained)]
    faults = (
        diagnosis.scale_fault(*spreads),
        diagnosis.linear_fault(model),
        diagnosis.frozen_fault(model, initialized=recipe.initialize is not None),
    )
    yield from (fault for fault in faults if fault)


@contextlib.contextmanager
def _failing_with(path: Path, what: str) -> Iterator[None]:
    """Turn any exception in the block into a UsageError with this message.

    Raises:
        UsageError: the block raised an exception.
    """
    try:
        with _running(path):
            yield
    except CifarTrainerError:
        raise
    except Exception as error:
        raise UsageError(f"--recipe {path}: {what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
