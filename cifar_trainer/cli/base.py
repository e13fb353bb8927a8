"""What every command shares: verbosity, errors as one message, exit codes, JSON."""

import contextlib
import functools
import json
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cifar_trainer import UNSUPPORTED, errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Exit codes by the class of the error, most special first.
EXIT_CODES: tuple[tuple[type[errors.CifarTrainerError], int], ...] = (
    (errors.UsageError, 2),
    (errors.DataError, 3),
    (errors.CheckError, 4),
    (errors.DeviceError, 5),
    (errors.CifarTrainerError, 1),
)

_VERBOSITY = "cifar_trainer.verbosity"

#: Nobody reads stderr any more: the message is lost, the exit code is not.
_UNREAD = contextlib.suppress(OSError)


class Terminated(BaseException):
    """A signal that asks the process to end; BaseException, so that no handler swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Group(click.Group):
    """A group that turns the package's errors into one message and an exit code."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any
    ) -> Any:
        """Run the command line; `standalone_mode` off returns and raises instead of exiting."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        if sys.platform == "win32":
            sys.exit(f"Error: {UNSUPPORTED}")
        _open_closed_streams()
        _raise_on_signals()
        _show_warnings()
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
            _complain("Interrupted.")
            sys.exit(130)
        except Terminated as error:
            _complain(f"Ended by {signal.Signals(error.number).name}.")
            sys.exit(128 + error.number)
        except BrokenPipeError:
            _exit_quietly()

    # Click itself would exit 1 where the reader of a pipe is gone, in parsing (--help) and in commands.

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError:
            _exit_quietly()
        except OSError as error:  # Of --help and --version: nothing else is read or written so early.
            _exit_unwritten(error)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _exit_quietly()
        except errors.CifarTrainerError as error:
            if verbosity(ctx) > 0:
                with _UNREAD:
                    traceback.print_exc()
            _complain(f"Error: {errors.printable_lines(str(error))}")
            if isinstance(error, errors.OutputError):
                _forget_stdout()
            ctx.exit(exit_code(error))


#: What other tools call an option of this one.
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
    """The error, naming the option of this tool where somebody has typed another tool's."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error
    ours = _FOREIGN_OPTIONS.get(error.option_name)
    if ours is None or not any(ours in parameter.opts for parameter in error.ctx.command.params):
        return error
    message = f"No such option {error.option_name!r}. Did you mean {ours!r}?"
    return click.NoSuchOption(error.option_name, message, ctx=error.ctx)


def exit_code(error: errors.CifarTrainerError) -> int:
    """The exit code that belongs to an error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def verbosity_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -q and -v; both may stand before or after the command's name."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            ctx.meta[_VERBOSITY] = -1 if parameter.name == "quiet" else 1

    quiet = click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=remember, show_default=False,
        help="Only results and errors.",
    )  # fmt: skip
    verbose = click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=remember, show_default=False,
        help="More detail: tracebacks, TensorFlow's own messages.",
    )  # fmt: skip
    return quiet(verbose(command))


def verbosity(ctx: click.Context | None = None) -> int:
    """-1 for --quiet, 1 for --verbose, else 0."""
    context = ctx or click.get_current_context(silent=True)
    return 0 if context is None else int(context.meta.get(_VERBOSITY, 0))


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --json: stdout is exactly one JSON object."""
    return click.option(
        "--json", "as_json", is_flag=True, show_default=False, help="Print the result as one JSON object."
    )(command)


class PathType(click.Path):
    """A path in which `~` is the home folder, also in `--run-dir=~/runs`, which no shell expands."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, parameter, ctx)))
        try:
            return path.expanduser()
        except RuntimeError:  # Of a user who does not exist: it is the name of a folder.
            return path


class SourceType(click.ParamType):  # type: ignore[type-arg]
    """A path, an address, or `-`, as text; `~` is the home folder."""

    name = "text"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        return str(Path(text).expanduser()) if text.startswith("~") else text


class Duration(click.ParamType[float]):
    """A number of seconds, or of minutes or hours with `m` or `h` behind it, to seconds."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|)", str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a time. Expected a number of seconds, or such as 90s, 10m or 2h.")
        return float(found[1]) * {"h": 3600.0, "m": 60.0}.get(found[2], 1.0)


def data_dir_option(
    name: str,
    help: str = "Folder of the prepared data sets.  [default: the run's own, or data]",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --data-dir for the command `name`, None by default; CIFAR_TRAINER_DATA names it for all."""
    return click.option(
        "--data-dir",
        type=PathType(),
        envvar=[f"CIFAR_TRAINER_{name.upper()}_DATA_DIR", "CIFAR_TRAINER_DATA"],
        help=f"{help}  [env: CIFAR_TRAINER_DATA]",
    )


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add RUN, a run's folder, which may also be given as --run RUN; the command's `run` is None without."""

    @functools.wraps(command)
    def with_run(*args: Any, run: Path | None, run_option: Path | None, **options: Any) -> Any:
        if run is not None and run_option is not None:
            raise errors.UsageError(f"RUN {run} and --run {run_option} were both given. Name one of them.")
        return command(*args, run=run if run_option is None else run_option, **options)

    with_option = click.option("--run", "run_option", type=PathType(), help="The same as RUN.")(with_run)
    return click.argument("run", type=PathType(), required=False)(with_option)


def print_json(value: dict[str, Any]) -> None:
    """Print the one JSON object of --json."""
    from cifar_trainer.cli.console import writing_results

    with writing_results():
        print(json.dumps(value, allow_nan=False), flush=True)


def name_variables(command: click.Command, name: str) -> None:
    """Let each option of the command `name` be set by CIFAR_TRAINER_<COMMAND>_<OPTION>.

    Click would name the variable by the function's argument: AS_JSON for --json.
    """
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            typed = max(option.opts, key=len).removeprefix("--").replace("-", "_")
            option.envvar = f"CIFAR_TRAINER_{name}_{typed}".upper()


#: What figures are saved as, by the ending of the name.
PLOT_ENDINGS = (".png", ".svg", ".pdf")


def plot_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --plot FILE, whose ending chooses the format; another one is a usage error."""

    def check(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        if path is not None and path.suffix.lower() not in PLOT_ENDINGS:
            raise errors.UsageError(
                f"--plot {path} does not end in the name of a format. "
                f"Expected {', '.join(PLOT_ENDINGS[:-1])} or {PLOT_ENDINGS[-1]}."
            )
        return path

    return click.option(
        "--plot", type=PathType(), metavar="FILE", callback=check, help=f"{help} FILE is .png, .svg or .pdf."
    )


def save_plot(path: Path, figure: "Figure") -> None:
    """Write a figure in the format that the ending of its name asks for.

    Raises:
        RunError: it cannot be written.
    """
    from cifar_trainer import files, plots

    with files.writing(path, "Choose another --plot."):
        files.write_bytes(path, plots.render(figure, path.suffix.lower().removeprefix(".")))


def explicit(ctx: click.Context, name: str) -> bool:
    """Whether an option was given, on the command line or by the environment."""
    source = ctx.get_parameter_source(name)
    return source in (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)


def _flush_stdout() -> None:
    # A reader that has gone away, and a disk that is full, are met here and not at the interpreter's end.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _exit_unwritten(error)


@functools.cache
def _raise_on_signals() -> None:
    def handler(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        # nohup's "ignore" is the user's wish.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, handler)


@functools.cache
def _show_warnings() -> None:
    """Show what the package logs, such as that a file system has no locks, as the commands' warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("Warning: %(message)s"))
    logging.getLogger("cifar_trainer").addHandler(handler)


def _complain(text: str) -> None:
    with _UNREAD:
        print(text, file=sys.stderr, flush=True)


def _open_closed_streams() -> None:
    """Open /dev/null where a stream was closed from the start (`2>&-`).

    Else the next file to be opened would get its number, and TensorFlow would log into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Gets the lowest number that is free: this one.
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _exit_quietly() -> NoReturn:
    _forget_stdout()
    sys.exit(0)


def _exit_unwritten(error: OSError) -> NoReturn:
    _complain(f"Error: {errors.OutputError(error)}")
    _forget_stdout()
    sys.exit(1)


def _forget_stdout() -> None:
    # Python would flush stdout once more at its end and complain; give it something to flush to.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
