"""Servers and images for the tests."""

import gc
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

for package in ("starlette", "uvicorn", "httptools", "prometheus_client"):
    pytest.importorskip(package, reason="the extra `serve` is not installed")

from serving_server import SHAPE, Running, running  # noqa: E402

from cifar_trainer.images import encode_png  # noqa: E402


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server with the default settings, shared by the tests of a file."""
    with running() as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    """An HTTP client of it."""
    with httpx.Client(base_url=server.url, timeout=20, trust_env=False, verify=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _unfrozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers exempt all objects from garbage collection; the tests' process must not."""
    monkeypatch.setattr(gc, "freeze", lambda: None)


@pytest.fixture(scope="session")
def png() -> bytes:
    """An image file that is mostly green."""
    image = np.full(SHAPE, 20, np.uint8)
    image[..., 1] = 200
    return encode_png(image)
