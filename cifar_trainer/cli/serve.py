"""`cifar-trainer serve`."""

import functools
import ipaddress
import logging
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import PathType, coverage_option, make_command, run_argument

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.serving.model import ServedModel


@make_command("serve", has_json=False)
@run_argument
@click.option("--model", type=PathType(), metavar="ARTEFACT", help="Serve an exported artefact.")
@coverage_option
@click.option("--name", help="The model's name in URLs.  [default: the data set's]")
@click.option("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0 listens on all networks.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="Another host name to accept, for example behind a proxy; * accepts any.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8501, help="Port to listen on; 0 picks a free one."
)
@click.option("--max-batch-size", type=click.IntRange(1, 4096), default=64, help="Images in one batch.")
@click.option(
    "--batch-timeout-ms",
    type=click.FloatRange(0, 1000),
    default=0.0,
    help="How long a batch waits for more images.",
)
@click.option(
    "--max-enqueued-batches", type=click.IntRange(1, 10_000), default=16,
    help="Maximum number of queued batches. Beyond it, requests get 503.",
)  # fmt: skip
@click.option(
    "--deadline",
    type=click.FloatRange(0.1, 600),
    default=30.0,
    help="Maximum seconds per request.",
)
@click.option(
    "--api-key", envvar="CIFAR_TRAINER_API_KEY",
    help="Key that clients must send. Prefer the variable: other users can read the command line."
    "  [env: CIFAR_TRAINER_API_KEY]",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Load a new version of the model when its files change.")
@click.option("--keep-unfamiliar", type=PathType(), metavar="DIR", help="Store unfamiliar images here.")
@click.option(
    "--keep-limit", type=click.IntRange(1, 1_000_000), default=1000, help="Maximum number of images in DIR."
)
@click.option("--alert-webhook", metavar="URL", help="URL to POST to when drift starts.")
def command(output: "Output", /, host: str, api_key: str | None, **options: Any) -> None:
    """Classify images over HTTP, with a page for trying it out.

    Serves the fastest export of RUN, by default the newest run, or an ARTEFACT. The server speaks TensorFlow
    Serving's REST API and the Open Inference Protocol, and accepts image files at /predict. /metrics is for
    Prometheus; /monitoring shows drift.

    \b
    Examples:
      cifar-trainer serve
      cifar-trainer serve --model runs/seed-1/export/model.onnx --port 9000
      curl -F image=@cat.jpg http://127.0.0.1:8501/predict
    """
    from cifar_trainer.serving.server import serve

    if not _is_loopback(host):
        output.warn(
            f"--host {host} accepts connections from other machines. They are not encrypted"
            + (", and anyone can use the server." if api_key is None else ".")
            + " See docs/security.md for what to put in front."
        )
    _log_to(output, access=output.verbose)
    serve(
        host=host,
        api_key=api_key,
        verbose=output.verbose,
        on_start=functools.partial(_announce, output),
        **options,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _announce(output: "Output", url: str, name: str, model: "ServedModel") -> None:
    output.note(f"{name} version {model.version}: {model.source.path} ({model.artefact.format})")
    output.note(f"Ready: {model.warm_up}. Stop with Ctrl-C.")
    output.print(url)


def _log_to(output: "Output", access: bool) -> None:
    """Show warnings, and with `access` one line per request."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            (output.note if record.levelno < logging.WARNING else output.warn)(self.format(record))

    logging.getLogger("cifar_trainer.serving.access").setLevel(logging.INFO if access else logging.WARNING)
    for name in ("cifar_trainer.serving", "uvicorn"):
        log = logging.getLogger(name)
        log.setLevel(logging.WARNING if name != "uvicorn" else logging.ERROR)
        log.addHandler(Handler())
        log.propagate = False
