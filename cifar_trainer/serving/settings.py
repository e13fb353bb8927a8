"""Server settings."""

import dataclasses
import urllib.parse
from pathlib import Path

from cifar_trainer.errors import UsageError
from cifar_trainer.settings import declared, setting

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of requests and connections.

    Attributes:
        body_bytes: size of one body, also after decompression.
        json_bytes: size of the JSON in it. Splitting it into images blocks all other requests.
        bodies_bytes: size of all bodies that are being read or answered.
        header_bytes: size of a request's line and headers.
        header_seconds: time from the start of a connection or its next request to the end of the headers.
        idle_seconds: time that a connection may wait for its next request.
        connections: number of open connections. To accept another, the longest idle one is closed, or
            else the slowest upload.
        image_pixels: width times height of an image.
    """

    body_bytes: int = 16 * MIB
    json_bytes: int = 8 * MIB
    bodies_bytes: int = 128 * MIB
    header_bytes: int = 16 * 1024
    header_seconds: float = 10.0
    idle_seconds: float = 60.0
    connections: int = 1000
    image_pixels: int = 16_000_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of `serve`.

    Attributes:
        allowed_hosts: other host names to accept; `*` accepts any.
        keep_unfamiliar: folder in which to store unfamiliar images.
        watch_seconds: seconds between two checks for a new version.

    Raises:
        UsageError: a value is invalid.
    """

    name: str = setting(required=True, default_text="the data set's", help="The model's name in URLs.")
    host: str = setting("127.0.0.1", help="Address to listen on; 0.0.0.0 listens on all networks.")
    port: int = setting(8501, at_least=0, at_most=65535, help="Port to listen on; 0 picks a free one.")
    max_batch_size: int = setting(64, at_least=1, at_most=4096, help="Images in one batch.")
    batch_timeout_ms: float = setting(
        0.0, at_least=0, at_most=1000, help="How long a batch waits for more images."
    )
    max_enqueued_batches: int = setting(
        16, at_least=1, at_most=10_000, help="Maximum number of queued batches. Beyond it, requests get 503."
    )
    deadline: float = setting(30.0, at_least=0.1, at_most=600, help="Maximum seconds per request.")
    api_key: str | None = setting(
        None, secret=True, variable="CIFAR_TRAINER_API_KEY",
        help="Key that clients must send. Prefer the variable: other users can read the command line.",
    )  # fmt: skip
    watch: bool = setting(False, help="Load a new version of the model when its files change.")
    keep_limit: int = setting(1000, at_least=1, at_most=1_000_000, help="Maximum number of images to store.")
    # A webhook's URL is often secret.
    alert_webhook: str | None = setting(
        None, secret=True, metavar="URL", help="URL to POST to when drift starts."
    )
    allowed_hosts: tuple[str, ...] = ()
    keep_unfamiliar: Path | None = None
    watch_seconds: float = 1.0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for name, declaration in declared(Settings).items():
            declaration.check(getattr(self, name))
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
