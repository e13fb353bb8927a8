"""Server settings."""

import dataclasses
import urllib.parse
from pathlib import Path

from cifar_trainer.errors import UsageError

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests and connections.

    Attributes:
        body_bytes: size of one body, also after decompression.
        json_bytes: size of the JSON in it. Splitting it into images blocks all other requests.
        bodies_bytes: size of all bodies that are being read or answered.
        header_bytes: size of a request's line and headers.
        header_seconds: time from the start of a connection, or of its next request, to the end of headers.
        request_seconds: time from the headers to the end of the answer.
        idle_seconds: time that a connection may wait for its next request.
        connections: number of open connections. For one more, the longest idle one is closed, or else the
            slowest upload.
        image_pixels: width times height of an image.
    """

    body_bytes: int = 16 * MIB
    json_bytes: int = 8 * MIB
    bodies_bytes: int = 128 * MIB
    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    request_seconds: float = 30.0
    idle_seconds: float = 60.0
    connections: int = 1000
    image_pixels: int = 16_000_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of `serve` (see there), and the limits.

    Attributes:
        watch_seconds: seconds between two checks for a new version.
    """

    name: str
    host: str = "127.0.0.1"
    port: int = 8501
    allowed_hosts: tuple[str, ...] = ()
    max_batch_size: int = 64
    batch_timeout_ms: float = 0.0
    max_enqueued_batches: int = 16
    # Secrets stay out of logs and tracebacks. A webhook's URL often is one.
    api_key: str | None = dataclasses.field(default=None, repr=False)
    watch: bool = False
    watch_seconds: float = 1.0
    keep_unfamiliar: Path | None = None
    keep_limit: int = 1000
    alert_webhook: str | None = dataclasses.field(default=None, repr=False)
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.name.isprintable() or set(self.name) & set("/:?#%\\ ") or self.name in ("", ".", ".."):
            raise UsageError(
                f"--name {self.name!r} cannot be part of a path. Expected letters, digits, - and _."
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip()):
            raise UsageError(
                "--api-key is empty or not ASCII. Expected a secret, for example: openssl rand -hex 32"
            )
        if self.alert_webhook is not None:
            address = urllib.parse.urlsplit(self.alert_webhook)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise UsageError("--alert-webhook is not an http:// or https:// URL.")
