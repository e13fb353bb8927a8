"""`cifar-trainer serve`."""

import functools
import ipaddress
import logging
from typing import TYPE_CHECKING, Any

import click

from cifar_trainer.cli.base import PathType, coverage_option, make_command, run_argument
from cifar_trainer.cli.options import setting_options
from cifar_trainer.serving.settings import Settings
from cifar_trainer.settings import declared

if TYPE_CHECKING:
    from cifar_trainer.cli.console import Output
    from cifar_trainer.serving.model import ServedModel


@make_command("serve", has_json=False)
@run_argument
@click.option("--model", type=PathType(), metavar="ARTEFACT", help="Serve an exported artefact.")
@coverage_option
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
    help="Another host name to accept, for example behind a proxy; * accepts any.",
)  # fmt: skip
@click.option("--keep-unfamiliar", type=PathType(), metavar="DIR", help="Store unfamiliar images here.")
@setting_options(declared(Settings).values())
def command(output: "Output", /, **options: Any) -> None:
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

    host = options["host"]
    if host is not None and not _is_loopback(host):
        output.warn(
            f"--host {host} accepts connections from other machines. They are not encrypted"
            + (", and anyone can use the server." if options["api_key"] is None else ".")
            + " See docs/security.md for what to put in front."
        )
    _log_to(output, access=output.verbose)
    serve(
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
