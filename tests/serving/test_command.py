"""`cifar-trainer serve` as a process, and that every client gets the class that `predict` gives."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import INTERPRETER, RunCli, command, environment, start_command
from serving_server import until, web

from cifar_trainer.images import encode_png

#: Its PNG files in a zip archive, which the tests of `prepare` read too.
CIFAR10 = Path(
    os.environ.get(
        "CIFAR_TRAINER_TEST_SOURCE", Path(__file__).parents[3] / "shared" / "data" / "cifar-10-png.zip"
    )
)
CLIENT = Path(__file__).resolve().parents[2] / "examples" / "serving" / "client.py"


@pytest.fixture(scope="module")
def model(artefacts: dict[str, Path]) -> Path:
    return artefacts.get("litert", artefacts["saved_model"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> list[Path]:
    """A hundred test images as PNG files: of CIFAR-10 where it is, else of the synthetic set."""
    folder = tmp_path_factory.mktemp("images")
    if CIFAR10.is_file():
        with zipfile.ZipFile(CIFAR10) as archive:
            named = [name for name in archive.namelist() if re.fullmatch(r"test/.+/.+\.png", name)]
            pngs = [archive.read(name) for name in named[:: len(named) // 100][:100]]
    else:
        pngs = [encode_png(each) for each in np.load(data_dir / "synthetic" / "test_images.npy")[:100]]
    for i, png in enumerate(pngs):
        (folder / f"{i:03}.png").write_bytes(png)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    """The address that a server of the artefact prints."""
    words = command("serve", "--model", model, "--port", 0, "--name", "cifar10")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143


@pytest.fixture(scope="module")
def expected(run_cli: RunCli, model: Path, images: list[Path]) -> list[str]:
    """What `predict` says."""
    done = run_cli(["predict", "--model", model, "--json", *images])
    return [each["top"][0]["class"] for each in json.loads(done.stdout)["predictions"]]


def test_the_example_client_gives_the_class_that_predict_gives(
    url: str, images: list[Path], expected: list[str]
) -> None:
    done = subprocess.run(
        [INTERPRETER, CLIENT, *images, "--url", url],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [line.split(": ")[1].rsplit(" ", 1)[0] for line in done.stdout.splitlines()] == expected


def test_curl_gives_the_class_that_predict_gives(url: str, images: list[Path], expected: list[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    words: list[str] = []
    for path in images:
        words += ["--next", "-s", "-w", "\\n", "-F", f"image=@{path}", f"{url}predict"]
    done = subprocess.run(["curl", *words[1:]], capture_output=True, text=True, check=True, timeout=60)
    assert [json.loads(line)["class"] for line in done.stdout.splitlines()] == expected


def test_no_accepted_request_is_lost_when_the_process_gets_sigterm(model: Path, images: list[Path]) -> None:
    answered: list[int] = []

    def ask_until_closed(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.closing(connection):
            closes = False
            while not closes:
                connection.request("POST", "/predict", images[0].read_bytes())
                answer = connection.getresponse()
                closes = answer.will_close
                assert answer.read().startswith(b'{"model"')
                answered.append(answer.status)

    words = command("serve", "--model", model, "--port", 0)
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as process,
        concurrent.futures.ThreadPoolExecutor(16) as threads,
    ):
        assert process.stdout is not None
        port = int(process.stdout.readline().strip("/\n").rpartition(":")[2])
        asking = [threads.submit(ask_until_closed, port) for _ in range(16)]
        assert until(lambda: len(answered) > 100, 60)
        process.send_signal(signal.SIGTERM)
        for each in asking:
            each.result(30)
        status = process.wait(30)
    assert status == 143


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_second_ctrl_c_ends_the_process_at_once_and_without_a_traceback(model: Path) -> None:
    with start_command(["serve", "--model", model, "--port", 0]) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip("/\n").rpartition(":")[2])
        try:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nhalf")
                # Who came later is answered: the half request has been taken up.
                assert web.get(f"http://127.0.0.1:{port}/metrics").is_success
                process.send_signal(signal.SIGINT)
                # The first has been taken up: the server no longer listens, and waits for the half request.
                assert until(lambda: not listens(port), 60)
                assert process.poll() is None
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.endswith("Interrupted.\n")


def test_a_taken_port_is_exit_code_1(run_cli: RunCli, url: str, model: Path) -> None:
    done = run_cli(["serve", "--model", model, "--port", url.rstrip("/").rpartition(":")[2]])
    assert done.returncode == 1
    assert "is taken" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["runs/a", "--model", "a.onnx"], 2, "RUN and --model were both given"),
        (["--api-key", ""], 2, "--api-key is empty"),
        (["--model", "no.onnx", "--port", "0"], 1, "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_said(
    run_cli: RunCli, model: Path, arguments: list[str], code: int, message: str
) -> None:
    done = run_cli(["serve", *(arguments if "--model" in arguments else ["--model", model, *arguments])])
    assert done.returncode == code
    assert message in done.stderr
