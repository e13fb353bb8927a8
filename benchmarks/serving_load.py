"""Speed of `cifar-trainer serve`, compared with the model in-process and with a plain handler.

    python benchmarks/serving_load.py --model runs/seed-0/export/model.onnx
    python benchmarks/serving_load.py --model runs/seed-0/export/model.onnx --soak 3600 --rate 20

The load uses only the loopback, from this process to a server in another. Each client keeps one
connection, and sends a request when the previous one is answered. `--soak` sends at a fixed rate instead,
and records the server's memory every 30 seconds.

`one_each` is the same server with one image per batch. `unbatched` is a plain FastAPI handler
(`pip install fastapi`) with the same decoding, model and HTTP parser. The servers take turns.
`server_cpu_ms` is the server's CPU time per request, which depends least on other load of the machine.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer.artefacts.formats import open_artefact
from cifar_trainer.images import encode_png

IMAGES = 64

UNBATCHED = """
import socket, sys
from pathlib import Path
import fastapi, uvicorn
from cifar_trainer.artefacts.formats import open_artefact
artefact = open_artefact(Path(sys.argv[1]))
app = fastapi.FastAPI()

def answer(content):
    predictions = artefact.predict(artefact.preprocessing.decode(content).pixels[None])
    return {"class": predictions.class_name[0], "probabilities": predictions.probabilities[0].tolist()}

@app.post("/predict")
async def predict(request: fastapi.Request):
    return await fastapi.concurrency.run_in_threadpool(answer, await request.body())

config = uvicorn.Config(app, port=0, log_level="error", http="httptools", loop="asyncio", ws="none")
# As in asyncio: only a socket created with IPPROTO_TCP gets TCP_NODELAY.
bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
bound.bind(("127.0.0.1", 0))
bound.listen(1024)
print(f"http://127.0.0.1:{bound.getsockname()[1]}/", flush=True)
uvicorn.Server(config).run(sockets=[bound])
"""


def requests_for(pngs: list[bytes]) -> list[bytes]:
    """An HTTP request for each PNG file."""
    head = (
        "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: {}\r\n\r\n"
    )
    return [head.format(len(png)).encode() + png for png in pngs]


class Client(asyncio.Protocol):
    """One connection, one request at a time. It is cheap, because it shares the cores with the server."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length and self._answer is not None:
            self._received = b""
            self._answer.set_result(int(head[9:12]))

    async def ask(self, request: bytes) -> int:
        """Send a request and return the status of the answer."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close the connection."""
        assert self._transport is not None
        self._transport.close()


async def connect(port: int) -> Client:
    """A client with an open connection."""
    _, client = await asyncio.get_running_loop().create_connection(Client, "127.0.0.1", port)
    return client


async def closed_loop(
    port: int, pid: int, requests: list[bytes], clients: int, seconds: float
) -> dict[str, float]:
    """Let each client send requests as fast as it gets answers, after a warm-up of a fifth of the time."""
    latencies: list[float] = []
    errors = answered = 0
    spent, own = cpu_seconds(pid), time.process_time()
    begin = time.perf_counter() + seconds / 5
    end = begin + seconds

    async def run(number: int) -> None:
        nonlocal errors, answered
        client = await connect(port)
        turn = number
        while (started := time.perf_counter()) < end:
            status = await client.ask(requests[turn % len(requests)])
            turn += 1
            answered += 1
            if started >= begin:
                latencies.append(time.perf_counter() - started)
                errors += status != 200
        client.close()

    await asyncio.gather(*(run(i) for i in range(clients)))
    p50, p95, p99 = np.percentile(latencies, (50, 95, 99)) * 1000
    return {
        "requests_per_second": len(latencies) / (time.perf_counter() - begin),
        "server_cpu_ms": (cpu_seconds(pid) - spent) / answered * 1000,
        "clients_cpu_ms": (time.process_time() - own) / answered * 1000,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "errors": errors,
    }


def in_process(model: Path, pngs: list[bytes], seconds: float) -> dict[str, float]:
    """Time the model without a server: with decoding, and alone."""
    artefact = open_artefact(model)
    images = [artefact.preprocessing.decode(png).pixels[None] for png in pngs]
    total, alone = [], []
    end = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < end:
        started = time.perf_counter()
        artefact.predict(artefact.preprocessing.decode(pngs[turn % len(pngs)]).pixels[None])
        middle = time.perf_counter()
        artefact.predict(images[turn % len(pngs)])
        alone.append(time.perf_counter() - middle)
        total.append(middle - started)
        turn += 1
    return {
        "decode_and_model_p50_ms": float(np.median(total)) * 1000,
        "model_p50_ms": float(np.median(alone)) * 1000,
        "requests_per_second": 1 / float(np.mean(total)),
    }


async def soak(port: int, requests: list[bytes], rate: float, seconds: float, pid: int) -> dict[str, Any]:
    """Send requests at a fixed rate, and record the server's memory every 30 seconds."""
    memory, errors, sent = [], 0, 0
    client = await connect(port)
    begin = time.perf_counter()
    while (now := time.perf_counter() - begin) < seconds:
        if now >= 30 * len(memory):
            memory.append(resident_mib(pid))
            print(f"{now:.0f} s: {sent} requests, {errors} errors, {memory[-1]:.1f} MiB", file=sys.stderr)
        try:
            errors += await client.ask(requests[sent % len(requests)]) != 200
        except OSError:
            errors += 1
            client = await connect(port)
        sent += 1
        await asyncio.sleep(max(0.0, begin + sent / rate - time.perf_counter()))
    memory.append(resident_mib(pid))
    return {"seconds": seconds, "requests": sent, "errors": errors, "resident_mib": memory}


def cpu_seconds(pid: int) -> float:
    """CPU time of a process with all its threads. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Resident memory of a process. Linux only."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[tuple[int, int]]:
    """Run a server that prints its address; yields its port and PID."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline()
            if not address:
                sys.exit(f"The server did not start: {' '.join(command[:4])} …")
            yield int(address.rstrip("/\n").rpartition(":")[2]), process.pid
        finally:
            process.terminate()


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported artefact")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement [%(default)s]")
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements to take the median of [%(default)s]"
    )
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="send at a fixed rate for this time")
    parser.add_argument(
        "--rate", type=float, default=20.0, help="requests per second of --soak [%(default)s]"
    )
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    pngs = [encode_png(image) for image in draw.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)]
    requests = requests_for(pngs)
    ours = [sys.executable, "-m", "cifar_trainer", "serve", "--model", str(options.model), "--port", "0"]
    if options.soak:
        with running(ours) as (port, pid):
            print(json.dumps(asyncio.run(soak(port, requests, options.rate, options.soak, pid))))
        return
    one_each = ["--max-batch-size", "1", "--max-enqueued-batches", "1024"]
    unbatched = [sys.executable, "-c", UNBATCHED, str(options.model)]
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(command))
            for name, command in (("serve", ours), ("one_each", ours + one_each), ("unbatched", unbatched))
        }
        result: dict[str, Any] = {
            "model": str(options.model),
            "in_process": in_process(options.model, pngs, 2.0),
        }
        for clients in options.clients:
            rounds = [
                {
                    name: asyncio.run(closed_loop(*server, requests, clients, options.seconds))
                    for name, server in servers.items()
                }
                for _ in range(options.rounds)
            ]
            result[f"{clients} clients"] = {
                name: {key: float(np.median([each[name][key] for each in rounds])) for key in rounds[0][name]}
                for name in servers
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
