"""From a run or an artefact to a server that answers until it is told to stop."""

import dataclasses
import gc
import logging
import resource
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


def make_server(service: Service) -> uvicorn.Server:
    """A uvicorn server of a service's paths and limits; `run(sockets=[…])` lets it answer."""
    limits = service.settings.limits
    _allow_descriptors(limits.connections + _OTHER_DESCRIPTORS)
    config = uvicorn.Config(
        make_app(service, lambda: server.should_exit),
        http=protocol_with(limits),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(limits.idle_seconds),
        timeout_graceful_shutdown=int(limits.request_seconds) + 5,
    )
    server = uvicorn.Server(config)
    service.telemetry.connections.set_function(lambda: len(server.server_state.connections))
    return server


def _allow_descriptors(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def settle() -> None:
    """Take all objects that there are now out of Python's garbage collection.

    TensorFlow alone brings so many that a whole collection stops every request for 0.2 to 0.5 s. Under
    load one came each second.
    """
    gc.collect()
    gc.freeze()


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
        RunError: there is no such run or artefact, or it is damaged.
        CheckError: the model does not give the answers that its manifest holds.
        UsageError: the host is none of this machine.
        CifarTrainerError: the port is taken.
    """
    # The port first: a model takes seconds to open.
    with listen(settings.host, settings.port) as bound:
        holder = ModelHolder(lambda: find_source(run, model), settings.max_batch_size)
        server = make_server(Service(holder, settings, on_load=settle))
        # A second Ctrl-C cuts everything off, which uvicorn reports with a traceback.
        logging.getLogger("uvicorn.error").addFilter(lambda record: not server.force_exit)
        # Who reads the address may connect at once; the kernel keeps the connection until it is accepted.
        bound.listen(_BACKLOG)
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        on_start(Started(f"http://{shown}:{port}/", settings.name, holder.current))
        settle()
        server.run(sockets=[bound])
