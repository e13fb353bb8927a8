"""Recipes of one's own: a Python file that defines one `Recipe`. Reading it runs it."""

import contextlib
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

from cifar_trainer import devices
from cifar_trainer.errors import CifarTrainerError, UsageError
from cifar_trainer.files import sha256_bytes
from cifar_trainer.recipes.recipe import Recipe, RecipeFile

#: What a recipe's file ends in, which tells it from the name of one.
ENDING = ".py"


def load_recipe(path: Path) -> Recipe:
    """The recipe that a file defines; its `file` is what was read.

    Raises:
        UsageError: the file cannot be read, fails, or does not define exactly one `Recipe`. The message
            names the line where that is known.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"--recipe {path} cannot be read: {error.strerror}. Expected the name of a recipe, or a Python "
            "file that defines one."
        ) from error
    # It will import Keras, which has to be the one that runs are trained with.
    devices.prepare()
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    with naming_the_line(path):
        try:
            exec(compile(content, str(path), "exec"), module.__dict__)
        except SyntaxError as error:
            raise UsageError(f"--recipe {path}, line {error.lineno}: {error.msg}.") from error
    found = list({id(each): each for each in vars(module).values() if isinstance(each, Recipe)}.values())
    if len(found) != 1:
        names = ", ".join(each.name for each in found)
        what = f"defines {len(found)} recipes ({names})" if found else "defines no recipe"
        raise UsageError(
            f"--recipe {path} {what}. Expected one: RECIPE = Recipe(name=..., ...), with Recipe imported "
            "from cifar_trainer.recipes."
        )
    return found[0].with_file(RecipeFile(path, content, sha256_bytes(content)))


@contextlib.contextmanager
def naming_the_line(path: Path | None) -> Iterator[None]:
    """Turn a fault in a recipe's file into one message that names its line; None names nothing.

    Raises:
        UsageError: an exception came through the file.
    """
    try:
        yield
    except CifarTrainerError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
        if line is None:
            raise
        text = str(error).strip().partition("\n")[0]
        raise UsageError(f"--recipe {path}, line {line}: {type(error).__name__}: {text}") from error
