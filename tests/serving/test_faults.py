"""What happens to a server, and what it does about it. Real sockets, on the loopback only."""

import concurrent.futures
import contextlib
import io
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import pytest
from serving_server import Running, running, until, web

from cifar_trainer.errors import CifarTrainerError
from cifar_trainer.serving.server import find_holder, listen
from cifar_trainer.serving.settings import Limits

GET = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


def talk(port: int, request: bytes, seconds: float = 10) -> bytes:
    """Send bytes and read until the server closes, or the first answer's end."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        connection.sendall(request)
        return connection.recv(65536)


def post(path: str, announced: int, body: bytes = b"") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {announced}\r\n\r\n".encode() + body


def alive(port: int) -> bool:
    with contextlib.suppress(ConnectionError):
        return b"200 OK" in talk(port, GET)
    return False


CHUNKED = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
#: Limits, a request, and the start of its answer.
REFUSED: dict[str, tuple[Limits, bytes, bytes]] = {
    "10 GB announced": (Limits(), post("/predict", 10 * 10**9), b"HTTP/1.1 413"),
    "no length": (Limits(body_bytes=100_000), CHUNKED + CHUNK * 2, b"HTTP/1.1 413"),
    "bodies together": (
        Limits(bodies_bytes=100_000), post("/predict", 200_000, b"x" * 200_000), b"HTTP/1.1 503",
    ),
    "long headers": (Limits(), b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 100_000, b"HTTP/1.1 431"),
    "long trailers": (Limits(), CHUNKED + b"0\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n", b"HTTP/1.1 431"),
    "an endless trailer": (
        Limits(body_bytes=1000), CHUNKED + b"0\r\nX-Long: " + b"x" * 1_200_000, b"HTTP/1.1 431",
    ),
    "two lengths": (
        Limits(), CHUNKED.replace(b"Host", b"Content-Length: 4\r\nHost") + b"0\r\n\r\n", b"HTTP/1.1 400",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("limits", "request_bytes", "start"), REFUSED.values(), ids=REFUSED)
def test_a_request_beyond_a_limit_is_refused_with_a_json_error(
    limits: Limits, request_bytes: bytes, start: bytes
) -> None:
    with running(limits=limits) as server:
        answer = talk(server.port, request_bytes)
    assert answer.startswith(start)
    assert b"content-type: application/json" in answer.lower()


def test_requests_that_are_sent_without_waiting_are_answered_in_order(server: Running, png: bytes) -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(post("/predict", len(png), png) + post("/predict", 2, b"no") + last)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    statuses = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 400, 200]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHos", GET + b"GET /"])
def test_headers_that_never_end_are_given_up(sent: bytes) -> None:
    with (
        running(limits=Limits(header_seconds=0.2)) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as connection,
    ):
        connection.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(65536):
                pass


def test_a_slow_drip_of_headers_is_given_up() -> None:
    with (
        running(limits=Limits(header_seconds=0.3)) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError, match=r"reset|pipe"):
            for i in range(3000):
                connection.sendall(f"X-{i}: y\r\n".encode())
                time.sleep(0.02)


def test_a_client_that_has_left_is_counted_with_a_status_of_its_own() -> None:
    with running() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(post("/predict", 1000, b"half"))
        labels = {"route": "/predict", "method": "POST", "status": "499"}
        assert until(lambda: server.counted("requests_total", **labels) == 1)
        assert server.counted("errors_total", cause="client_gone") == 1


def test_slow_uploads_do_not_shut_others_out() -> None:
    with running(limits=Limits(connections=20)) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(20)]
        try:
            for connection in slow:
                connection.sendall(post("/predict", 100_000, b"x"))
            assert until(lambda: server.counted("connections") == 20)
            # Those that have just begun to send are not called slow yet.
            assert until(lambda: alive(server.port))
            answer = next(connection.recv(65536) for connection in slow if is_answered(connection))
            assert alive(server.port)
        finally:
            for connection in slow:
                connection.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'{"error": ' in answer


def is_answered(connection: socket.socket) -> bool:
    """Whether the server has sent something."""
    return bool(select.select([connection], [], [], 0)[0])


def test_one_connection_too_many_is_answered_and_not_reset(png: bytes) -> None:
    with running(limits=Limits(connections=2)) as server:
        server.model.hold.clear()
        busy = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(2)]
        for connection in busy:
            connection.sendall(post("/predict", len(png), png))
        assert until(lambda: sum(server.model.sizes) + server.counted("queued_images") == 2)
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            refused = connection.recv(65536)
        server.model.hold.set()
        answered = [connection.recv(65536) for connection in busy]
        for connection in busy:
            connection.close()
    assert refused.startswith(b"HTTP/1.1 503")
    assert b'{"error": ' in refused
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answered)


def test_a_server_that_stops_is_not_ready_and_answers_what_it_has(png: bytes) -> None:
    with running() as server:
        assert server.counted("ready") == 1
        server.model.hold.clear()
        with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
            connection.sendall(post("/predict", len(png), png))
            assert server.model.working.wait(10)
            server.server.should_exit = True
            assert until(lambda: server.counted("ready") == 0)
            server.model.hold.set()
            assert b"connection: close" in connection.recv(65536).lower()


def test_connections_that_the_kernel_holds_are_answered_when_the_server_stops() -> None:
    with running() as server:
        # The event loop is busy while they connect and ask, and the server stops.
        held = threading.Event()
        loop = server.loop()
        loop.call_soon_threadsafe(held.wait, 10)
        clients = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(16)]
        for client in clients:
            client.sendall(GET)
        server.server.should_exit = True
        held.set()
        answers = [client.recv(65536) for client in clients]
        for client in clients:
            client.close()
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_the_images_of_a_client_that_has_left_are_not_classified(png: bytes) -> None:
    with running(max_batch_size=1) as server:
        server.model.hold.clear()
        with concurrent.futures.ThreadPoolExecutor() as threads:
            first = threads.submit(web.post, f"{server.url}/predict", content=png, timeout=20)
            assert server.model.working.wait(10)
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(post("/predict", len(png), png))
                assert until(lambda: server.counted("queued_images") == 1)
            assert until(lambda: server.counted("queued_images") == 0)
            server.model.hold.set()
            assert first.result().status_code == 200
        assert server.model.sizes == [1]


def test_connections_that_are_left_open_do_not_shut_others_out() -> None:
    with contextlib.ExitStack() as opened, running(limits=Limits(connections=20)) as server:
        for _ in range(500):
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        assert alive(server.port)
        assert server.counted("connections") <= 20


@pytest.mark.parametrize(
    ("settings", "start"),
    [({"limits": Limits(body_bytes=1000)}, b"HTTP/1.1 413"), ({"api_key": "secret"}, b"HTTP/1.1 401")],
)
@pytest.mark.parametrize(
    "body", [post("/predict", 2**24, b"x" * 2**24), CHUNKED + CHUNK * 256 + b"0\r\n\r\n"]
)
def test_a_client_that_sends_all_of_a_refused_body_first_is_answered_and_not_reset(
    settings: dict[str, Any], start: bytes, body: bytes
) -> None:
    with running(**settings) as server:
        assert talk(server.port, body).startswith(start)


@pytest.mark.parametrize(("seconds", "most", "body"), [(0.1, 2**30, b""), (60, 1000, b"x" * 2**24)])
def test_the_rest_of_a_refused_body_is_read_up_to_a_bound_in_seconds_and_bytes(
    monkeypatch: pytest.MonkeyPatch, seconds: float, most: int, body: bytes
) -> None:
    monkeypatch.setattr("cifar_trainer.serving.limits._DISCARD_SECONDS", seconds)
    monkeypatch.setattr("cifar_trainer.serving.connections._DISCARD_BYTES", most)
    with (
        running(limits=Limits(body_bytes=1000)) as server,
        socket.create_connection(("127.0.0.1", server.port), 5) as connection,
        contextlib.suppress(ConnectionError),
    ):
        connection.sendall(post("/predict", 10**10, body))
        while connection.recv(65536):
            pass


def test_half_a_body_is_408() -> None:
    with running(deadline=0.2) as server:
        answer = talk(server.port, post("/predict", 1000, b"half"))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"content-type: application/json" in answer.lower()


def test_an_answer_that_takes_too_long_is_504(png: bytes) -> None:
    with running(deadline=0.2) as server:
        server.model.hold.clear()
        assert web.post(f"{server.url}/predict", content=png).status_code == 504


def test_a_model_that_fails_is_500_and_the_next_request_is_answered(png: bytes) -> None:
    with running() as server:
        predict = server.model.predict
        server.model.predict = lambda images: 1 / 0  # type: ignore[method-assign, assignment, return-value]
        failed = web.post(f"{server.url}/predict", content=png)
        server.model.predict = predict  # type: ignore[method-assign]
        answered = web.post(f"{server.url}/predict", content=png)
    assert failed.status_code == 500
    assert failed.json()["error"] == "The server failed. See its log."
    assert answered.status_code == 200


def test_a_port_that_is_taken_is_named_with_who_has_it(server: Running) -> None:
    with pytest.raises(CifarTrainerError, match=rf"Port {server.port} .* is taken by process \d+"):
        listen("127.0.0.1", server.port)


def test_a_descriptor_that_is_closed_does_not_end_the_search_for_who_has_a_port() -> None:
    earlier = os.open(os.devnull, os.O_RDONLY)
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        # The search gets its number for the listing: before the socket's, and closed when it is read.
        os.close(earlier)
        assert f"process {os.getpid()} " in str(find_holder(bound.getsockname()[1]))


def test_the_command_of_who_has_a_port_ends_in_dots_if_it_is_cut() -> None:
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    words = [sys.executable, "-uSc", f"{code}; sys.stdin.read()"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        holder = find_holder(int(process.stdout.readline()))
        process.communicate()
    assert re.fullmatch(rf"process {process.pid} \(.{{80}} …\)", str(holder))


def test_an_upload_larger_than_a_megabyte_does_not_touch_the_disk(
    client: httpx.Client, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def refuse(self: object) -> None:
        raise AssertionError("spooled to the disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", refuse)
    large = io.BytesIO(png + b"\0" * 3_000_000)
    assert client.post("/predict", files={"image": ("a.png", large)}).status_code == 200
