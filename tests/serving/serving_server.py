"""A server on the loopback, in a thread of the test's process, with a model of arithmetic."""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np

from cifar_trainer.artefacts.baseline import Baseline, make_baseline
from cifar_trainer.artefacts.formats import Artefact, Predictions, softmax
from cifar_trainer.artefacts.source import Source
from cifar_trainer.images import Preprocessing
from cifar_trainer.metrics import Thresholds, fit_thresholds
from cifar_trainer.serving.model import ServedModel
from cifar_trainer.serving.monitoring import DriftMonitor
from cifar_trainer.serving.server import listen, make_server
from cifar_trainer.serving.service import Service
from cifar_trainer.serving.settings import Settings

#: Shared, because a client of its own for each request costs more than the request. It keeps no connection
#: open, so that a server does not wait for it when it stops.
web = httpx.Client(
    timeout=20, trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0)
)
CLASSES = ("red", "green", "blue")
SHAPE = (8, 8, 3)


class ColourModel(Artefact):
    """Says which colour an image has most of.

    Attributes:
        sizes: of its batches so far.
        hold: the model waits while this is cleared.
    """

    format = "test"
    classes = CLASSES
    preprocessing = Preprocessing(SHAPE)

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.hold = threading.Event()
        self.hold.set()
        self.working = threading.Event()

    def predict(self, images: np.ndarray) -> Predictions:
        self.sizes.append(len(images))
        self.working.set()
        assert self.hold.wait(30)
        logits = (images.mean(axis=(1, 2)) / 16).astype(np.float32)
        ids = logits.argmax(axis=1)
        return Predictions(logits, softmax(logits), ids, tuple(CLASSES[i] for i in ids))


def images_of(count: int, seed: int = 0) -> np.ndarray:
    """Images of one colour more than of the others, uint8 [count, 8, 8, 3]."""
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 100, (count, *SHAPE)).astype(np.uint8)
    images[np.arange(count), :, :, draw.integers(0, 3, count)] += 100
    return images


class Running:
    """A server that answers.

    Attributes:
        url, port: of it.
        service, server, model: its parts.
    """

    def __init__(self, service: Service, model: ColourModel) -> None:
        self.service, self.model = service, model
        self.server = make_server(service)
        self.socket = listen("127.0.0.1", 0)
        self.socket.listen(1024)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.run, args=([self.socket],), daemon=True)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The server's event loop."""
        return self.server.servers[0].get_loop()

    def counted(self, name: str, **labels: str) -> float:
        """A figure of /metrics."""
        return self.service.metrics.registry.get_sample_value(f"cifar_trainer_{name}", labels) or 0.0


def until(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    """Wait for a condition; whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@functools.cache
def _ordinary() -> tuple[Thresholds | None, Baseline]:
    """Thresholds and the baseline of ordinary images."""
    images = images_of(600)
    logits = ColourModel().predict(images).logits
    return fit_thresholds(logits), make_baseline(images, logits, 1.0)


def served(model: ColourModel, version: int = 1, **parts: Any) -> ServedModel:
    """A model in service, with thresholds and a baseline of ordinary images."""
    thresholds, baseline = _ordinary()
    values: dict[str, Any] = {
        "artefact": model,
        "version": version,
        "source": Source(Path("model"), None, None),
        "thresholds": thresholds,
        "monitor": DriftMonitor(baseline, CLASSES),
        "warm_up": "tested",
    }
    return ServedModel(**{**values, **parts})


@contextlib.contextmanager
def running(holder: Any = None, **settings: Any) -> Iterator[Running]:
    """A server with these settings, for the time of the block."""
    model = ColourModel()
    holder = holder or SimpleNamespace(current=served(model), failure=None)
    started = Running(Service(holder, Settings(**{"name": "colours", "port": 0, **settings})), model)
    started.thread.start()
    assert until(lambda: started.server.started)
    try:
        yield started
    finally:
        model.hold.set()
        started.server.should_exit = True
        started.thread.join(20)
        started.socket.close()
        assert not started.thread.is_alive()
