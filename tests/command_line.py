"""How tests start `cifar-trainer` and Python programs: forked from one process that has imported TensorFlow.

A process of its own that imports everything anew is for what is about just that: an import, the
interpreter's start or end, limits of a process (`own_process=True`, or `INTERPRETER`).
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import cifar_trainer

RunCli = Callable[..., subprocess.CompletedProcess[str]]

#: The real one, which imports everything anew. `sys.executable` is the one that is forked, so that what the
#: package itself starts from a test, such as the proof of an export, is forked too.
INTERPRETER = sys.executable

#: Code after which the gate of `export` compares 1,000 images and two files of each kind.
SMALL_GATE = """
from cifar_trainer.artefacts import export, gate
export.IMAGES, export.FILES = 1000, 2 * len(gate.KINDS)
"""

COMMAND_WITH_A_SMALL_GATE = f"""{SMALL_GATE}
import sys
from cifar_trainer.cli import main
main(sys.argv[1:], prog_name="cifar-trainer")
"""

_HERE = Path(__file__).resolve().parent
_PACKAGE_ROOT = Path(cifar_trainer.__file__).resolve().parent.parent
#: What would change a command's behaviour or looks, and must not leak in from who runs the tests.
_FOREIGN = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "TERM")


class ForkServer:
    """The server's process, and the programs that stand in for the interpreter and for `cifar-trainer`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fork-"))
        client = [INTERPRETER, "-IS", str(_HERE / "fork_client.py"), INTERPRETER]
        self._write("python", client)
        self._write("cifar-trainer", [*client, "-m", "cifar_trainer"])
        os.environ["TESTS_FORK_SERVER"] = str(self.folder / "socket")
        os.environ["TESTS_FORK_PYTHON"] = str(self.folder / "python")
        self._process = subprocess.Popen(
            [INTERPRETER, _HERE / "fork_server.py", self.folder / "socket"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=_PACKAGE_ROOT,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def _write(self, name: str, command: list[str]) -> None:
        quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
        (self.folder / name).write_text(f'#!/bin/sh\nexec {quoted} "$@"\n')
        (self.folder / name).chmod(0o755)

    def stop(self) -> None:
        """End the server, and what it forked."""
        self._process.communicate()
        shutil.rmtree(self.folder)


def environment(changes: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Variables for a command: those of the tests, nothing foreign, this package first, and `changes`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _FOREIGN and not name.startswith("CIFAR_TRAINER_")
    }
    path = [str(_PACKAGE_ROOT), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    return {**kept, **(changes or {})}


def python(own_process: bool = False) -> str:
    """The interpreter to start a program with: one that is forked, or the real one."""
    return INTERPRETER if own_process else os.environ.get("TESTS_FORK_PYTHON", INTERPRETER)


def command(*arguments: object, own_process: bool = False) -> list[str]:
    """The words that run `cifar-trainer ARGUMENTS`, for subprocess."""
    return [python(own_process), "-m", "cifar_trainer", *map(str, arguments)]


def run_python(
    arguments: Sequence[object],
    *,
    env: Mapping[str, Any] | None = None,
    own_process: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` without a terminal; `options` are subprocess.run's."""
    # A function that is to run in the new process, such as one that sets a limit, needs one.
    interpreter = python(own_process or "preexec_fn" in options)
    defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    defaults |= {"timeout": 300, "check": False}
    if "input" in options:
        del defaults["stdin"]
    return subprocess.run(
        [interpreter, *map(str, arguments)], env=environment(env), **{**defaults, **options}
    )


def run_command(arguments: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `cifar-trainer ARGUMENTS` without a terminal; `options` as of `run_python`."""
    return run_python(["-m", "cifar_trainer", *arguments], **options)


def run_here(arguments: Sequence[object], env: Mapping[str, str] | None = None) -> Any:
    """Run `cifar-trainer ARGUMENTS` in this process; `exit_code`, `stdout` and `stderr` of the result.

    For commands that end before they compute anything, such as those with a wrong argument: no process, no
    TensorFlow.
    """
    from click.testing import CliRunner

    from cifar_trainer.cli import main

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return CliRunner(env=dict(env or {})).invoke(main, [str(word) for word in arguments])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def all_commands() -> dict[str, Any]:
    """Each command of `cifar-trainer` by its name; a command of a group has the group's name before it."""
    import click

    from cifar_trainer.cli import COMMANDS, main

    found: dict[str, Any] = {}
    for name in COMMANDS:
        made = main.get_command(click.Context(main), name)
        members = made.commands if isinstance(made, click.Group) else {}
        found |= {f"{name} {member}": each for member, each in members.items()} or {name: made}
    return found


def start_command(
    arguments: Sequence[object], *, program: Sequence[object] = ("-m", "cifar_trainer"), **options: Any
) -> subprocess.Popen[str]:
    """Start `cifar-trainer ARGUMENTS`, its output in pipes, with every signal at its default.

    `program` is what the interpreter runs instead, such as the command line with a change.
    """
    defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL, "text": True}
    defaults |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [python(), *map(str, (*program, *arguments))],
        env=environment(options.pop("env", None)),
        preexec_fn=default_signals,
        **{**defaults, **options},
    )


def default_signals() -> None:
    """For `preexec_fn`: nohup, and a shell that starts a job in the background, ignore some signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def load_script(path: Path) -> ModuleType:
    """Import a script of examples/ or benchmarks/ by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
