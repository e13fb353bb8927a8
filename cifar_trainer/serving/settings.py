"""How a server is to behave."""

import dataclasses
from pathlib import Path

from cifar_trainer.errors import UsageError

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes from its clients before it refuses.

    Attributes:
        body_bytes: of one request.
        bodies_bytes: of all requests that are being read or answered.
        header_bytes: of one request's line and headers.
        header_seconds: from the opening of a connection, or the first byte of a further request, until the
            headers are there.
        request_seconds: until a request is read and answered; its deadline.
        idle_seconds: how long a connection may wait for its next request.
        connections: open at once; beyond it, the one that has waited longest without a request is closed.
    """

    body_bytes: int = 32 * MIB
    bodies_bytes: int = 256 * MIB
    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    request_seconds: float = 30.0
    idle_seconds: float = 60.0
    connections: int = 1000


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a server is to behave; the options of `serve`.

    Attributes:
        name: of the model in the protocols' paths.
        host, port: where it listens; port 0 takes a free one.
        max_batch_size: images in one call of the model.
        batch_timeout_ms: how long a batch waits for more images.
        max_enqueued_batches: images waiting, as a multiple of `max_batch_size`; beyond it, 503.
        api_key: what clients must send; None lets everybody in.
        watch: whether a new version of the model is taken up.
        watch_seconds: how often it looks for one.
        keep_unfamiliar: a folder for unfamiliar images; None stores nothing.
        keep_limit: images that it holds at most.
        alert_webhook: an address that is told when drift begins.
        limits: of requests and connections.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 8501
    max_batch_size: int = 64
    batch_timeout_ms: float = 0.0
    max_enqueued_batches: int = 16
    api_key: str | None = None
    watch: bool = False
    watch_seconds: float = 1.0
    keep_unfamiliar: Path | None = None
    keep_limit: int = 1000
    alert_webhook: str | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or ":" in self.name:
            raise UsageError(f"--name {self.name!r} cannot stand in a path. Expected a name without / and :.")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise UsageError(
                "--api-key is empty or not ASCII. Expected a secret such as: openssl rand -hex 32"
            )
        if self.alert_webhook is not None and not self.alert_webhook.startswith(("http://", "https://")):
            raise UsageError(
                f"--alert-webhook {self.alert_webhook} is no address. Expected http://… or https://…"
            )
