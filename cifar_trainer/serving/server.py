"""From a run or an artefact to a server that answers until it is told to stop."""

import dataclasses
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from cifar_trainer.serving.app import make_app
from cifar_trainer.serving.connections import protocol_with
from cifar_trainer.serving.model import ModelHolder, ServedModel, find_source
from cifar_trainer.serving.ports import listen
from cifar_trainer.serving.service import Service
from cifar_trainer.serving.settings import Settings

#: Descriptors that are needed beside those of the connections.
_OTHER_DESCRIPTORS = 200
_BACKLOG = 1024


@dataclasses.dataclass(frozen=True)
class Started:
    """A server that is about to take requests.

    Attributes:
        url: of its page.
        name: of the model in the protocols' paths.
        model: that it serves.
    """

    url: str
    name: str
    model: ServedModel


def make_server(
    run: Path | None = None, model: Path | None = None, *, settings: Settings
) -> tuple[uvicorn.Server, socket.socket, Service]:
    """Take the port, open the model, let it prove itself.

    Returns:
        The server, the socket to call `server.run(sockets=[…])` with, and what it serves.

    Raises:
        RunError: there is no such run or artefact, or it is damaged.
        CheckError: the model does not give the answers that its manifest holds.
        UsageError: the host is none of this machine.
        CifarTrainerError: the port is taken.
    """
    bound = listen(settings.host, settings.port)
    try:
        holder = ModelHolder(lambda: find_source(run, model), settings.max_batch_size)
        service = Service(holder, settings)
        _allow_descriptors(settings.limits.connections + _OTHER_DESCRIPTORS)
        config = uvicorn.Config(
            make_app(service),
            http=protocol_with(settings.limits),
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            h11_max_incomplete_event_size=settings.limits.header_bytes,
            timeout_keep_alive=int(settings.limits.idle_seconds),
            timeout_graceful_shutdown=int(settings.limits.request_seconds) + 5,
        )
        server = uvicorn.Server(config)
        service.telemetry.connections.set_function(lambda: len(server.server_state.connections))
    except BaseException:
        bound.close()
        raise
    return server, bound, service


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def serve(
    run: Path | None = None,
    *,
    model: Path | None = None,
    settings: Settings,
    on_start: Callable[[Started], None] = lambda started: None,
) -> None:
    """Serve a run's model, or an artefact, until SIGINT or SIGTERM; answer what was accepted, and return.

    Args:
        run: a run's folder; None is the newest run.
        model: an artefact instead.
        settings: the options of `serve`.
        on_start: called when the model is ready, right before requests are taken.

    Raises:
        CifarTrainerError: see `make_server`.
    """
    server, bound, service = make_server(run, model, settings=settings)
    with bound:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        # Who reads the address may connect at once; the kernel keeps the connection until it is accepted.
        bound.listen(_BACKLOG)
        on_start(Started(f"http://{shown}:{port}/", settings.name, service.model))
        server.run(sockets=[bound])
