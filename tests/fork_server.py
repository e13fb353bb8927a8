"""One process that has imported TensorFlow, and forks wherever a test wants a Python process.

    python fork_server.py SOCKET        (standard input is the lifeline, see below)

An import of TensorFlow takes seconds, and most commands of the package need it. `fork_client.py`
stands in for the interpreter: it sends its arguments, environment, folder and streams here, and
ends as the forked process ends. A program that imports the package finds all of it imported, another
one none of it.

TensorFlow is imported with the first request. It starts its threads with its first operation, and
no operation runs in this process, so a fork is safe. The server ends when its standard input does,
that is when the process that started it has ended, however it ended; what it forked ends with it.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import re
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from fork_client import ANSWER, FORWARDED, RUN_IT_YOURSELF

#: Read by the interpreter, TensorFlow, Keras, Matplotlib, the C library ... when they are loaded. TF_CONFIG,
#: which names the processes of a cluster, is read later.
READ_EARLY = (
    "KERAS_", "TF_", "XLA_", "OMP_", "KMP_", "OPENBLAS_", "MKL_", "MPL", "CUDA_", "LD_", "PYTHON", "LC_",
    "LANG", "HOME", "TZ", "MALLOC_",
)  # fmt: skip
#: What the package sets before it imports TensorFlow, and what scikit-learn sets when it is imported: a
#: process that has imported them hands it on, and nothing is different for that.
PRELOADED = {
    "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3", "KMP_DUPLICATE_LIB_OK": "True",
    "KMP_INIT_AT_FORK": "FALSE",
}  # fmt: skip
#: An import of the package in the text of a program.
USES_PACKAGE = re.compile(rb"(?:^|;)\s*(?:import|from) cifar_trainer\b", re.MULTILINE)
#: A message is its length, then JSON.
HEADER = struct.Struct("!I")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    """`count` bytes; fewer where the other end is gone."""
    parts = b""
    while len(parts) < count and (part := connection.recv(count - len(parts))):
        parts += part
    return parts


def receive_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """What to run, and the descriptors that become its standard streams.

    Raises:
        EOFError: the client has gone.
    """
    header, streams, _, _ = socket.recv_fds(connection, HEADER.size, 3)
    header += receive_exactly(connection, HEADER.size - len(header))
    if len(header) < HEADER.size:
        raise EOFError
    return json.loads(receive_exactly(connection, *HEADER.unpack(header))), streams


def read_early(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that decide what is imported and how."""
    found = {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_EARLY) and name != "TF_CONFIG" and PRELOADED.get(name) != value
    }
    if path := found.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path.split(os.pathsep)))
    return found


def is_program(arguments: list[str]) -> bool:
    """Whether these are a module, code or a file, and no other options of the interpreter's."""
    return bool(arguments) and (arguments[0] in ("-P", "-m", "-c") or not arguments[0].startswith("-"))


def preload() -> None:
    """Import what the commands need; nothing of it may start a thread of TensorFlow's."""
    os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")
    with open(os.devnull, "w") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        # Of the sweeps' extra, which may be missing.
        with contextlib.suppress(ImportError):
            import alembic.migration  # noqa: F401
            import optuna  # noqa: F401
            import sqlalchemy.orm  # noqa: F401
        import jinja2  # noqa: F401
        import keras  # noqa: F401
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401
        import scipy.special
        import scipy.stats  # noqa: F401
        import sklearn.metrics  # noqa: F401
        import tensorboard.plugins.hparams.api
        import tensorboard.plugins.pr_curve.metadata  # noqa: F401
        import tensorflow  # noqa: F401

        import cifar_trainer

        for module in pkgutil.walk_packages(cifar_trainer.__path__, "cifar_trainer."):
            # Of other extras.
            with contextlib.suppress(ImportError):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)
        os.dup2(kept, 2)
        os.close(kept)
    gc.collect()
    # The children then share what is here, instead of copying it at their first collection.
    gc.freeze()


def uses_package(arguments: list[str]) -> bool:
    """Whether a program is the package's, or imports it."""
    kind, *rest = arguments[1:] if arguments[0] == "-P" else arguments
    if kind == "-m":
        return rest[0].partition(".")[0] == "cifar_trainer"
    return bool(USES_PACKAGE.search(os.fsencode(rest[0]) if kind == "-c" else Path(kind).read_bytes()))


def forget_package() -> None:
    """As in a process that has not imported it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "cifar_trainer"]:
        del sys.modules[name]


def leave_out_figures() -> None:
    """Draw nothing for TensorBoard and for pages, which takes a second for a run, and more for a report."""
    import tensorflow as tf

    from cifar_trainer import pages
    from cifar_trainer.training.tensorboard import EpochImages, EventWriter

    empty = pages.PageFigure(b"", b"")
    pages.draw_figures = lambda drawings, *arguments: dict.fromkeys(drawings, empty)
    EpochImages._draw = lambda *arguments: None
    EventWriter._forward_graph = lambda *arguments: tf.Graph()


class Server:
    """Forks for each request, and says how the child ended. Single-threaded, since it forks."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._children: dict[socket.socket, tuple[int, int]] = {}
        self._read_early = read_early(os.environ)
        self._ready = False

    def serve(self) -> None:
        """Until standard input ends."""
        self._selector.register(0, selectors.EVENT_READ, lambda: False)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while all(key.data() for key, _ in self._selector.select()):
            pass
        for child, _ in self._children.values():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def _accept(self) -> bool:
        connection, _ = self._listener.accept()
        try:
            request, streams = receive_request(connection)
        except (EOFError, OSError):
            connection.close()
            return True
        if not is_program(request["arguments"]) or read_early(request["environment"]) != self._read_early:
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(OSError), connection:
                connection.sendall(ANSWER.pack(RUN_IT_YOURSELF))
            return True
        if not self._ready:
            preload()
            self._ready = True
        server = os.getpid()
        child = os.fork()
        if child == 0:
            self._close()
            connection.close()
            become(request, streams, server)
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(child)
        self._children[connection] = child, ended
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._report(connection))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._signal(connection))
        return True

    def _close(self) -> None:
        """In the child: what is the server's."""
        self._selector.close()
        self._listener.close()
        for connection, (_, ended) in self._children.items():
            connection.close()
            os.close(ended)

    def _signal(self, connection: socket.socket) -> bool:
        """A client sends signals as bytes; where it has gone, its process goes too."""
        if connection not in self._children:
            return True
        child, _ = self._children[connection]
        try:
            numbers = connection.recv(16)
        except ConnectionError:
            numbers = b""
        for number in numbers or bytes([signal.SIGKILL]):
            os.kill(child, number)
        if not numbers:
            self._selector.unregister(connection)
        return True

    def _report(self, connection: socket.socket) -> bool:
        child, ended = self._children.pop(connection)
        _, status = os.waitpid(child, 0)
        self._selector.unregister(ended)
        os.close(ended)
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection)
        with contextlib.suppress(OSError), connection:
            connection.sendall(ANSWER.pack(os.waitstatus_to_exitcode(status)))
        return True


def become(request: dict[str, Any], streams: list[int], server: int) -> NoReturn:
    """Run what is asked for, in the forked process, and end as the interpreter would."""
    code = 70
    try:
        set_up(request, streams, server)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        if not uses_package(request["arguments"]):
            forget_package()
        elif os.environ.get("TESTS_WITHOUT_FIGURES"):
            leave_out_figures()
        code = run(request["arguments"])
        # What the interpreter does at its end, in its order.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
        except OSError:
            traceback.print_exc()
            code = 120
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def set_up(request: dict[str, Any], streams: list[int], server: int) -> None:
    """Environment, folder, signals and streams as they were where the process was asked for."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        os._exit(70)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # In a C locale the interpreter lets its streams pass names that are not UTF-8.
    errors = sys.stdout.errors
    sys.stdin = os.fdopen(0, errors=errors)
    sys.stdout = os.fdopen(1, "w", buffering=1 if os.isatty(1) else -1, errors=errors)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    # What it starts in turn, such as the proof of an export, is forked here as well.
    sys.executable = os.environ["TESTS_FORK_PYTHON"]


def run(arguments: list[str]) -> int:
    """`-m MODULE ...`, `-P -m MODULE ...`, `-c CODE ...` or `FILE ...`; returns the exit code."""
    safe = arguments[0] == "-P"
    kind, *rest = arguments[1:] if safe else arguments
    try:
        if kind == "-m":
            sys.argv, sys.path[0:0] = rest, [] if safe else [str(Path.cwd())]
            if "." in rest[0]:
                # `run_module` warns of a module that was imported before it is run.
                sys.modules.pop(rest[0], None)
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv, sys.path[0:0] = ["-c", *rest[1:]], [""]
            main: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
            exec(compile(rest[0], "<string>", "exec"), main)
        else:
            sys.argv, sys.path[0:0] = arguments, [str(Path(kind).resolve().parent)]
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def main() -> None:
    """Listen at the path that is given until standard input ends."""
    # Ctrl-C is for the one who runs the tests, and that ends standard input. A signal for
    # a child waits in the same way until the child is set up.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    sys.path.remove(str(Path(__file__).parent))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(64)
        # The other end waits for this: requests are welcome.
        print("ready", flush=True)
        Server(listener).serve()


if __name__ == "__main__":
    main()
