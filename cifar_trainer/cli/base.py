"""Shared by all commands: errors and exit codes, streams, common options, shell completion."""

import functools
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

from cifar_trainer import errors, process

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Exit codes by the class of the error, the most specific first.
EXIT_CODES: tuple[tuple[type[errors.CifarTrainerError], int], ...] = (
    (errors.UsageError, 2),
    (errors.DataError, 3),
    (errors.CheckError, 4),
    (errors.DeviceError, 5),
    (errors.CifarTrainerError, 1),
)

_VERBOSITY = "cifar_trainer.verbosity"

#: A closed stderr loses the message, but must not change the exit code.
_UNREAD = suppress(OSError)


class Terminated(BaseException):
    """A termination signal. A BaseException, so that `except Exception` does not swallow it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Group(click.Group):
    """A group that turns the package's errors into one message and an exit code."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line; without `standalone_mode`, return and raise instead of exiting."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        if sys.platform == "win32":
            sys.exit(f"Error: {errors.UNSUPPORTED}")
        _open_closed_streams()
        _raise_on_signals()
        process.command_line = shlex.join(["cifar-trainer", *(sys.argv[1:] if args is None else args)])
        try:
            # Click's own standalone mode would exit 1 on Ctrl-C; scripts expect 130.
            result = super().main(args, standalone_mode=False, **extra)
            _flush_stdout()
            sys.exit(result if isinstance(result, int) else 0)
        except click.ClickException as error:
            with _UNREAD:
                _with_hint(error).show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _print_error("Interrupted.")
            sys.exit(130)
        except Terminated as error:
            _print_error(f"Ended by {signal.Signals(error.number).name}.")
            sys.exit(128 + error.number)
        except BrokenPipeError:
            _exit_quietly()

    # Click would exit 1 on a broken pipe, both in parsing (--help) and in commands.

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            _exit_quietly()
        except OSError as error:  # Only --help and --version do I/O this early.
            _exit_on_write_error(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _exit_quietly()
        except errors.CifarTrainerError as error:
            if verbosity(ctx) > 0:
                with _UNREAD:
                    traceback.print_exc()
            _print_error(f"Error: {errors.printable_lines(str(error))}")
            if isinstance(error, errors.OutputError):
                _discard_stdout()
            ctx.exit(exit_code(error))


#: Option names of other tools, and ours.
_FOREIGN_OPTIONS = {
    "--lr": "--learning-rate",
    "--lr0": "--learning-rate",
    "--batch": "--batch-size",
    "--bs": "--batch-size",
    "-b": "--batch-size",
    "--data": "--data-dir",
    "--dir": "--data-dir",
    "--root": "--data-dir",
    "--model": "--recipe",
    "--arch": "--recipe",
    "--output": "--run-dir",
    "--project": "--run-dir",
    "--amp": "--precision",
    "--half": "--precision",
    "--fp16": "--precision",
    "--dtype": "--precision",
    "--gpu": "--device",
    "--cuda": "--device",
    "--cpu": "--device",
    "--manual-seed": "--seed",
    "--val": "--validation",
    "--subset": "--limit",
    "--checkpoint": "--resume",
    "--continue": "--resume",
}


def _with_hint(error: click.ClickException) -> click.ClickException:
    """The error, suggesting our option if the user typed another tool's."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error
    ours = _FOREIGN_OPTIONS.get(error.option_name)
    if ours is None or not any(ours in parameter.opts for parameter in error.ctx.command.params):
        return error
    message = f"No such option {error.option_name!r}. Did you mean {ours!r}?"
    return click.NoSuchOption(error.option_name, message, ctx=error.ctx)


def exit_code(error: errors.CifarTrainerError) -> int:
    """The exit code of an error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def make_command(name: str, *, has_json: bool = True) -> Callable[[Callable[..., None]], click.Command]:
    """Turn a function of an `Output` and options into a command.

    The command gets -q, -v and --json. The variables CIFAR_TRAINER_<COMMAND>_<OPTION> set
    its options, too.

    Args:
        name: the command's name, after the name of its group if it has one: `check data`.
        has_json: add --json.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(as_json: bool = False, **options: Any) -> None:
            from cifar_trainer.cli.console import Output

            output = Output(verbosity(), as_json)
            with output.redirecting():
                function(output, **options)

        made = click.command(name=name.rpartition(" ")[2])(run)
        if has_json:
            made.params.append(_json_option())
        made.params += verbosity_options()
        for option in made.params:
            if isinstance(option, click.Option):
                # Click would derive the variable from the parameter's name: AS_JSON for --json.
                typed = max(option.opts, key=len).removeprefix("--").replace("-", "_")
                others = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
                option.envvar = [f"CIFAR_TRAINER_{name}_{typed}".upper().replace(" ", "_"), *others]
        return made

    return decorate


def verbosity_options() -> list[click.Parameter]:
    """-q and -v, accepted before and after the command's name."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_VERBOSITY] = -1 if parameter.name == "quiet" else 1

    common: dict[str, Any] = {
        "is_flag": True, "expose_value": False, "callback": remember, "show_default": False
    }  # fmt: skip
    return [
        click.Option(["-q", "--quiet"], help="Print only results and errors.", **common),
        click.Option(["-v", "--verbose"], help="Show tracebacks and TensorFlow's own messages.", **common),
    ]


def _json_option() -> click.Option:
    text = "Print the result as one JSON object."
    return click.Option(["--json", "as_json"], is_flag=True, show_default=False, help=text)


def verbosity(ctx: click.Context | None = None) -> int:
    """-1 for --quiet, 1 for --verbose, else 0."""
    context = ctx or click.get_current_context(silent=True)
    return 0 if context is None else int(context.meta.get(_VERBOSITY, 0))


class PathType(click.Path):
    """A path. Expands `~`, even in `--run-dir=~/runs`, where the shell does not."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, parameter, ctx)))
        try:
            return path.expanduser()
        except RuntimeError:  # No such user: `~name` is a folder's name.
            return path


class RunType(PathType):
    """A run's folder; completes the runs in runs/."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from cifar_trainer.run import DEFAULT_ROOT, find_runs

        runs = [str(run.path) for run in find_runs(DEFAULT_ROOT)]
        matches = [CompletionItem(run) for run in runs if run.startswith(incomplete)]
        return matches or super().shell_complete(ctx, param, incomplete)


class NameType(click.ParamType[str]):
    """A string; completes `names`, and files if `files` is true."""

    name = "text"

    def __init__(self, names: Callable[[click.Context], Sequence[str]], *, files: bool = False) -> None:
        self._names, self._files = names, files

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        matches = [CompletionItem(name) for name in self._names(ctx) if name.startswith(incomplete)]
        # Click's script for bash forgets what comes before a file.
        return [CompletionItem(incomplete, type="file"), *matches] if self._files else matches


def _datasets(ctx: click.Context) -> list[str]:
    """Names of the built-in data sets, and of those in the data folder."""
    from cifar_trainer.data import DATASETS
    from cifar_trainer.settings import DEFAULT_DATA_DIR

    folder = Path(ctx.params.get("data_dir") or os.environ.get("CIFAR_TRAINER_DATA") or DEFAULT_DATA_DIR)
    prepared = [path.parent.name for path in folder.glob("*/dataset.json")]
    return sorted({*DATASETS, *prepared})


def _recipes(ctx: click.Context) -> list[str]:
    from cifar_trainer.recipes import RECIPES

    return sorted(RECIPES)


#: A data set's name; a recipe's name, or a Python file that defines a recipe.
DATASET, RECIPE = NameType(_datasets), NameType(_recipes, files=True)


class SourceType(click.ParamType[str]):
    """A path, URL or `-`, as a string. Expands `~`."""

    name = "text"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        return str(Path(text).expanduser()) if text.startswith("~") else text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Duration(click.ParamType[float]):
    """A duration such as 90, 90s, 10m or 2h, converted to seconds."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration. Expected seconds, or a duration such as 90s, 10m or 2h.")
        return float(match[1]) * {"h": 3600.0, "m": 60.0}.get(match[2], 1.0)


def data_dir_option(
    help: str = "Folder of the prepared data sets.  [default: the run's own, or data]",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --data-dir, None by default; CIFAR_TRAINER_DATA sets it for all commands."""
    return click.option(
        "--data-dir",
        type=PathType(),
        envvar="CIFAR_TRAINER_DATA",
        help=f"{help}  [env: CIFAR_TRAINER_DATA]",
    )


coverage_option = click.option(
    "--coverage",
    metavar="P",
    help="Also give a set of classes that contains the right one with this probability, such as 90%.",
)


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument RUN and its alias --run. The command gets `run`, None by default."""

    @functools.wraps(command)
    def with_run(*args: Any, run: Path | None, run_option: Path | None, **options: Any) -> Any:
        if run is not None and run_option is not None:
            raise errors.UsageError(f"RUN {run} and --run {run_option} were both given. Pass only one.")
        return command(*args, run=run if run_option is None else run_option, **options)

    with_option = click.option("--run", "run_option", type=RunType(), help="The same as RUN.")(with_run)
    return click.argument("run", type=RunType(), required=False)(with_option)


#: Supported file formats of figures.
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


def plot_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --plot FILE. The suffix chooses the format; an unsupported one is a usage error."""

    def check(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and path.suffix.lower() not in PLOT_SUFFIXES:
            raise errors.UsageError(
                f"--plot {path} is not a supported format. "
                f"Expected {', '.join(PLOT_SUFFIXES[:-1])} or {PLOT_SUFFIXES[-1]}."
            )
        return path

    return click.option(
        "--plot", type=PathType(), metavar="FILE", callback=check, help=f"{help} FILE is .png, .svg or .pdf."
    )


def save_plot(path: Path, figure: "Figure") -> None:
    """Write a figure in the format of the path's suffix.

    Raises:
        RunError: the file cannot be written.
    """
    from cifar_trainer import files, plots

    with files.writing(path, "Choose another --plot."):
        files.write_bytes(path, plots.render(figure, path.suffix.lower().removeprefix(".")))


def _flush_stdout() -> None:
    # Detect a closed pipe or a full disk now, not when the interpreter exits.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _exit_on_write_error(error)


@functools.cache
def _raise_on_signals() -> None:
    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # Keep ignoring signals that the caller ignores, as under nohup.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


def _print_error(text: str) -> None:
    with _UNREAD:
        print(text, file=sys.stderr, flush=True)


def _open_closed_streams() -> None:
    """Replace streams that were closed at startup (`2>&-`) with /dev/null.

    Otherwise the next file opened would get a closed stream's number, and TensorFlow would log to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Returns the lowest free number, which is this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _exit_quietly() -> NoReturn:
    _discard_stdout()
    sys.exit(0)


def _exit_on_write_error(error: OSError) -> NoReturn:
    _print_error(f"Error: {errors.OutputError(error)}")
    _discard_stdout()
    sys.exit(1)


def _discard_stdout() -> None:
    # Python flushes stdout again at exit, which would fail and print an error.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
