"""`serve`: opens the port and the model, and runs the server until it is stopped."""

from cifar_trainer.extras import check_extra

# Check before the imports that need the extra, so that the function and the command give the same message.
check_extra("serve", "serve", ("starlette", "uvicorn", "httptools", "prometheus_client"))

import asyncio
import contextlib
import ctypes
import dataclasses
import errno
import logging
import resource
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from cifar_trainer import devices
from cifar_trainer.artefacts.source import find_source
from cifar_trainer.errors import CifarTrainerError, UsageError, printable
from cifar_trainer.serving.app import make_app
from cifar_trainer.serving.connections import protocol_with
from cifar_trainer.serving.model import ModelHolder, ServedModel, settle
from cifar_trainer.serving.service import Service
from cifar_trainer.serving.settings import Settings
from cifar_trainer.settings import check_known, declared, documented

#: File descriptors needed besides those of the connections.
_OTHER_DESCRIPTORS = 200
_BACKLOG = 1024
_SWITCH_SECONDS = 0.001
#: From glibc's malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
#: The state of a listening socket in /proc/net/tcp.
_LISTENS = "0A"


class Server(uvicorn.Server):
    """uvicorn's server, extended to answer the connections that still wait in the kernel when it stops."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept all waiting connections, stop listening, and answer them."""
        # Each iteration of the event loop accepts all waiting connections.
        for _ in range(3):
            await asyncio.sleep(0)
        await super().shutdown(sockets)


def make_server(service: Service) -> Server:
    """A server for a service; start it with `run(sockets=[…])`."""
    limits = service.settings.limits
    _allow_descriptors(limits.connections + _OTHER_DESCRIPTORS)

    service.is_stopping = lambda: server.should_exit
    config = uvicorn.Config(
        make_app(service),
        http=protocol_with(limits, service.is_stopping),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(limits.idle_seconds),
        timeout_graceful_shutdown=int(service.settings.deadline) + 5,
    )
    server = Server(config)
    service.metrics.connections.set_function(lambda: len(server.server_state.connections))
    return server


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _return_memory() -> None:
    """Let glibc return freed blocks from 1 MiB, such as large bodies, to the system.

    By default it raises that threshold, and keeps freed memory for each thread.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**20)
        mallopt(_M_ARENA_MAX, 2)


@documented([*declared(Settings).values()])
def serve(
    run: str | Path | None = None,
    *,
    model: str | Path | None = None,
    coverage: float | str | None = None,
    allowed_hosts: Sequence[str] = (),
    keep_unfamiliar: str | Path | None = None,
    verbose: bool = False,
    on_start: Callable[[str, str, ServedModel], None] = lambda url, name, model: None,
    **arguments: Any,
) -> None:
    """Serve a run's model, or an artefact, until SIGINT or SIGTERM; then finish the accepted requests.

    Args:
        run: the run's folder; by default, the newest run at the start.
        model: an artefact instead of a run.
        coverage: also give sets of classes that contain the right one with this probability (`predict`).
        allowed_hosts: other host names to accept; `*` accepts any.
        keep_unfamiliar: folder in which to store unfamiliar images.
        {settings}
        verbose: show TensorFlow's own messages.
        on_start: called with the page's URL, the model's name and the model once all are ready.

    Raises:
        RunError: there is no such run or artefact, or it is damaged.
        CheckError: the model's answers are not those in its manifest.
        UsageError: an argument is invalid, or the host is not an address of this machine.
        CifarTrainerError: the port is taken.
    """
    if run is not None and model is not None:
        raise UsageError("RUN and --model were both given. Pass only one.")
    check_known("serve", arguments, [*declared(Settings)])
    given = {name: value for name, value in arguments.items() if value is not None}
    # Check the settings before looking for a model, which may provide the name.
    settings = Settings(
        **{"name": "model", **given},
        allowed_hosts=tuple(allowed_hosts),
        keep_unfamiliar=None if keep_unfamiliar is None else Path(keep_unfamiliar),
    )
    artefact = None if model is None else Path(model)
    source = find_source(None if run is None else Path(run), artefact, coverage)
    # Fail before TensorFlow starts.
    source.read_sets()
    # With --watch, a newer run is not a new version: it may have different data.
    chosen = None if source.run is None else source.run.path
    if "name" not in given:
        settings = dataclasses.replace(settings, name=source.dataset)
    _return_memory()
    # Bind first: opening a model takes seconds.
    with listen(settings.host, settings.port) as bound:
        if source.format.uses_tensorflow:
            devices.start(device="cpu", verbose=verbose)
        holder = ModelHolder(lambda: find_source(chosen, artefact, coverage), settings.max_batch_size)
        server = make_server(Service(holder, settings))
        # After a second Ctrl-C, uvicorn logs a traceback for each request that it cuts off.
        logging.getLogger("uvicorn.error").addFilter(lambda record: not server.force_exit)
        # Clients may connect as soon as the URL is printed; the kernel holds their connections.
        bound.listen(_BACKLOG)
        address, free_port = bound.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        on_start(f"http://{shown}:{free_port}/", settings.name, holder.current)
        settle()
        # Decoding threads yield to the event loop after this time, instead of 5 ms.
        sys.setswitchinterval(_SWITCH_SECONDS)
        server.run(sockets=[bound])


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket, which does not listen yet; port 0 picks a free port.

    Raises:
        UsageError: the host is not an address of this machine.
        CifarTrainerError: the port is taken, or may not be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"--host {host} cannot be resolved: {error.strerror}. Expected a name or an address."
        ) from error
    bound = socket.socket(family, kind, protocol)
    try:
        # Otherwise, connections of a server that has just ended hold the port for a minute.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            holder = find_holder(port)
            by_whom = f" by {holder}" if holder else f" (lsof -i :{port} shows the process)"
            raise CifarTrainerError(
                f"Port {port} on {host} is taken{by_whom}. Stop that process, or choose another --port "
                "(0 picks a free one)."
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(f"--host {host} is not an address of this machine.") from error
        raise CifarTrainerError(
            f"Port {port} on {host} cannot be used: {error.strerror}. Choose another --port."
        ) from error
    return bound


def find_holder(port: int) -> str | None:
    """The process that listens on a port, such as `process 123 (python3 -m http.server)`.

    None if that is unknown: it is another user's process, or this is not Linux.
    """
    sockets = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for fields in map(str.split, Path(table).read_text().splitlines()[1:]):
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                # A descriptor that was just closed does not end the search.
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in sockets:
                        words = (process / "cmdline").read_bytes().split(b"\0")
                        command = printable(b" ".join(words).decode("utf-8", "replace").strip())
                        shown = command if len(command) <= 80 else f"{command[:80]} …"
                        return f"process {process.name} ({shown})"
    return None
