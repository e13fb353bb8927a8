"""Send malformed, huge, nested, wrongly typed and hostile requests to `cifar-trainer serve`.

    python benchmarks/hostile_requests.py --model runs/seed-0/export/model.onnx

Each request must get a 4xx with a JSON error, while another process polls `/v2/health/live` every 50 ms. The
load uses only the loopback. The exit code is 1 after an answer other than 4xx, an error that is not JSON, a
probe slower than 250 ms, or if the server uses 50 MiB more memory afterwards.
"""

import argparse
import base64
import contextlib
import dataclasses
import gzip
import http.client
import json
import multiprocessing
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

PROBE_SECONDS = 0.05
SLOWEST_PROBE = 0.25
MEMORY_MIB = 50
MIB = 2**20
JSON_TYPE = "Content-Type: application/json"


@dataclasses.dataclass(frozen=True)
class Attack:
    """A request that the server must refuse.

    Attributes:
        group: kind of attack.
        name: description of the fault.
        request: bytes of the request.
    """

    group: str
    name: str
    request: bytes


def post(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """The bytes of a POST request, after which the server closes the connection."""
    lines = [f"POST {path} HTTP/1.1", "Connection: close", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("Host: localhost")
    if length is None or length >= 0:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """The bytes of a request without a body."""
    return post(path, b"", *headers, length=-1).replace(b"POST", method.encode(), 1)


def repeated(unit: bytes, size: int) -> bytes:
    """A JSON list of about `size` bytes."""
    return b"[" + (unit + b",") * max(1, size // (len(unit) + 1) - 1) + unit + b"]"


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, *others: bytes) -> bytes:
    """An RGB PNG file whose header has this size."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(others) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bad_files(large: int) -> dict[str, bytes]:
    """Files that are not usable images."""
    pixels = zlib.compress(b"\0" * 3 * 32 * 33)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 2**20))
    whole = png(32, 32, pixels)
    return {
        "nothing": b"",
        "text": b"hello",
        "zeros": b"\0" * large,
        "an SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "a HEIC": b"\0\0\0\x18ftypheic" + b"\0" * 1000,
        "a PNG header only": b"\x89PNG\r\n\x1a\n",
        "a PNG of 30,000 x 30,000 pixels": png(30_000, 30_000, zlib.compress(b"")),
        "a PNG of 8,000 x 8,000 pixels": png(8000, 8000, zlib.compress(bytes(1 + 3 * 8000) * 8000)),
        "a PNG of 0 x 0 pixels": png(0, 0, zlib.compress(b"")),
        "a PNG without data": png(32, 32, b""),
        "a PNG with a wrong checksum": whole[:-20] + b"abcd" + whole[-16:],
        "a PNG cut off after compressed texts": png(32, 32, pixels, *[text] * 14)[:-40],
        "a PNG with 20,000 chunks, cut off": png(32, 32, pixels, *[chunk(b"tEXt", b"a\0b")] * 20_000)[:-40],
        "a GIF cut off": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + b"\xf7\0\0" + b"\0" * 100,
        "a JPEG cut off": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + b"\0" * 100,
        "a BMP of 60,000 x 60,000 pixels": b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "a TIFF that points nowhere": b"II*\0" + b"\xff\xff\xff\x7f" + b"\0" * 100,
        "a WebP cut off": b"RIFF\xff\xff\0\0WEBPVP8 " + b"\0" * 20,
    }


def bad_json(large: int) -> dict[str, bytes]:
    """Values that are not images, and bodies that are not JSON."""
    return {
        "an empty list": b"[]",
        "a number": b"3",
        "a string": b'"x"',
        "an object": b"{}",
        "null": b"null",
        "a list of null": b"[null]",
        "a list of true": b"[true]",
        "a fraction": b"[0.5]",
        "a name": b'["red"]',
        "an empty image": b"[[]]",
        "an empty row": b"[[[]]]",
        "unequal lists": b"[[1,2],[3]]",
        "a flat image": repeated(b"1", 5000),
        "a number of 10,000 digits": b"[[[[" + b"9" * 10_000 + b"]]]]",
        "an endless exponent": b"[[[[1e999999999]]]]",
        "NaN": b"[NaN]",
        "many numbers": repeated(b"1", large),
        "many fractions": repeated(b"1.5", large),
        "many objects": repeated(b"{}", large),
        "many lists": repeated(b"[]", large),
        "many strings": repeated(b'""', large),
        "many nulls": repeated(b"null", large),
        "many keys": b'{"a":' + b'0,"a":' * (large // 6) + b"0}",
        "rows of empty lists": b"[[" + repeated(b"[]", large) + b"]]",
        "a string of brackets": b'["' + b"[" * large + b'"]',
        "a long string beside short ones": b'["' + b"x" * (large // 4) + b'"' + b',""' * 500 + b"]",
        "spaces": b"[" + b" " * large + b"1]",
        "lists nested 100,000 deep": b"[" * 100_000 + b"]" * 100_000,
        "lists nested 900 deep": b"[" * 900 + b"]" * 900,
        "objects nested 100,000 deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "a list that does not end": b"[" * large,
        "a string that does not end": b'"' + b"x" * large,
        "invalid UTF-8": b'["\xff\xfe"]',
        "half a surrogate": b'["\\ud800"]',
        "NUL bytes": b"\0" * large,
    }


def attacks(
    model: str = "cifar10", shape: tuple[int, int, int] = (32, 32, 3), large: int = 7 * MIB
) -> Iterator[Attack]:
    """All attacks.

    Args:
        model: name of the model on the server.
        shape: shape of its images.
        large: size of large JSON in bytes, of which the server accepts 8 MiB; other bodies have twice that.
    """
    yield from _tensorflow_serving(f"/v1/models/{model}:predict", shape, large)
    yield from _open_inference(f"/v2/models/{model}/infer", shape, large)
    yield from _files(2 * large)
    yield from _forms(2 * large)
    yield from _encodings(f"/v1/models/{model}:predict", large)
    yield from _http(model)


def _image(shape: tuple[int, int, int], value: bytes = b"0") -> bytes:
    for size in reversed(shape):
        value = b"[" + b",".join([value] * size) + b"]"
    return value


def _b64(content: bytes) -> bytes:
    return base64.b64encode(content)


def _tensorflow_serving(path: str, shape: tuple[int, int, int], large: int) -> Iterator[Attack]:
    def attack(name: str, body: bytes) -> Attack:
        return Attack("TensorFlow Serving", name, post(path, body, JSON_TYPE))

    image = _image(shape)
    many = b"[" + b",".join([image] * 1025) + b"]"
    for name, value in bad_json(large).items():
        yield attack(f"body: {name}", value)
        yield attack(f"instances: {name}", b'{"instances":' + value + b"}")
    yield attack("1,025 images", b'{"instances":' + many + b"}")
    yield attack("1,025 images in a column", b'{"inputs":{"images":' + many + b"}}")
    yield attack("a column of another name", b'{"inputs":{"pixels":[]}}')
    yield attack("a value of 256", b'{"instances":[' + _image(shape, b"256") + b"]}")
    yield attack("a value of -1", b'{"instances":[' + _image(shape, b"-1") + b"]}")
    yield attack("an image and a number", b'{"instances":[' + image + b",5]}")
    yield attack("an image with unknown keys", b'{"instances":[{"images":' + image + b',"x":1}]}')
    yield attack("instances and inputs", b'{"instances":[1],"inputs":[1]}')
    for value in (b"[1]", b"{}", b"5", b'"no"', b'"' + b"x" * (large // 2) + b'"'):
        yield attack(
            "a signature_name of " + repr(value[:8]), b'{"signature_name":' + value + b',"instances":[1]}'
        )
    files = b'{"signature_name":"serving_bytes","instances":'
    small = b'{"b64":"' + _b64(png(1, 1, zlib.compress(b"\0" * 4))) + b'"}'
    yield attack("more files than the queue holds", files + repeated(small, max(large, MIB // 2)) + b"}")
    for value in (
        b"7",
        b'{"b64":7}',
        b'{"b64":"?"}',
        b'{"b64":"data:image/png;base64,AAAA"}',
        b'{"c":"AAAA"}',
    ):
        yield attack(f"a file given as {value.decode()}", files + b"[" + value + b"]}")
    for name, content in bad_files(large // 2).items():
        yield attack(f"a file: {name}", files + b'[{"b64":"' + _b64(content) + b'"}]}')


def _open_inference(path: str, shape: tuple[int, int, int], large: int) -> Iterator[Attack]:
    def attack(name: str, body: bytes, *headers: str) -> Attack:
        return Attack("Open Inference Protocol", name, post(path, body, JSON_TYPE, *headers))

    sizes = b"[1," + b",".join(b"%d" % size for size in shape) + b"]"
    head = b'{"name":"images","datatype":"UINT8","shape":' + sizes
    good = head + b',"data":[' + _image(shape) + b"]}"
    for name, value in bad_json(large).items():
        yield attack(f"inputs: {name}", b'{"inputs":' + value + b"}")
        yield attack(f"data: {name}", b'{"inputs":[' + head + b',"data":' + value + b"}]}")
        if len(value) < large:
            yield attack(f"a shape of {name}", b'{"inputs":[' + good.replace(sizes, value) + b"]}")
    for value in (
        b'[{"name":["x"]}]',
        b'[{"name":{}}]',
        b'[{"name":"x"}]',
        b"7",
        repeated(b'{"name":"logits"}', large),
    ):
        yield attack(f"outputs of {value[:20]!r}", b'{"inputs":[' + good + b'],"outputs":' + value + b"}")
    yield attack("an id that is an object", b'{"inputs":[' + good + b'],"id":{}}')
    yield attack(
        "a classification",
        b'{"inputs":[' + good + b'],"outputs":[{"name":"logits","parameters":{"classification":3}}]}',
    )
    yield attack("a float tensor", b'{"inputs":[' + good.replace(b"UINT8", b"FP32") + b"]}")
    for length in ("-1", "x", "9" * 30, "99999999"):
        yield attack(f"a header length of {length[:10]}", b"{}", f"Inference-Header-Content-Length: {length}")
    binary = b'{"inputs":[' + head + b',"parameters":{"binary_data_size":9}}]}'
    yield attack("nine bytes of pixels", binary + b"x" * 9, f"Inference-Header-Content-Length: {len(binary)}")
    text = binary.replace(head, b'{"name":"image_bytes","datatype":"BYTES","shape":[1]').replace(b":9", b":4")
    yield attack("a string of 4 GiB", text + b"\xff" * 4, f"Inference-Header-Content-Length: {len(text)}")


def _files(large: int) -> Iterator[Attack]:
    for name, content in bad_files(large).items():
        yield Attack("image files", f"POST /predict: {name}", post("/predict", content))
    for value in ("", "-1", "x", "9" * 20, "%00", "%F0%9F%92%A3"):
        yield Attack(
            "image files", f"POST /explain: class_id={value[:10]}", post(f"/explain?class_id={value}", b"x")
        )


def _forms(large: int) -> Iterator[Attack]:
    kind = "Content-Type: multipart/form-data"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    field = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    for name, body, header in (
        ("no boundary", part, kind),
        ("an empty boundary", part, f"{kind}; boundary="),
        ("a boundary of 10,000 bytes", part, f"{kind}; boundary={'b' * 10_000}"),
        ("another boundary", part + b"x\r\n--b--", f"{kind}; boundary=c"),
        ("no end", part + b"x" * large, f"{kind}; boundary=b"),
        ("no file", field + b"--b--", f"{kind}; boundary=b"),
        ("two files", (part + b"x\r\n") * 2 + b"--b--", f"{kind}; boundary=b"),
        ("100,000 fields", field * min(100_000, large // len(field)) + b"--b--", f"{kind}; boundary=b"),
        ("delimiters only", b"\r\n--b" * (large // 5), f"{kind}; boundary=b"),
        ("line ends only", b"\r\n" * (large // 2), f"{kind}; boundary=b"),
        ("long headers", b"--b\r\nX: " + b"x" * large + b"\r\n\r\n1\r\n--b--", f"{kind}; boundary=b"),
        ("a file of text", part + b"hello\r\n--b--", f"{kind}; boundary=b"),
    ):
        yield Attack("forms", name, post("/predict", body, header))


def _encodings(path: str, large: int) -> Iterator[Attack]:
    bomb = gzip.compress(b"[" * large * 16)
    for name, body, encoding in (
        ("text said to be gzip", b"hello", "gzip"),
        ("a truncated gzip", gzip.compress(b"{}" * 1000)[:-9], "gzip"),
        ("a gzip bomb", bomb, "gzip"),
        ("a deflate bomb", zlib.compress(b" " * large * 16), "deflate"),
        ("an unknown encoding", b"{}", "br"),
        ("two encodings", b"{}", "gzip, gzip"),
    ):
        yield Attack("encodings", name, post(path, body, f"Content-Encoding: {encoding}"))


def _http(model: str) -> Iterator[Attack]:
    chunked = "Transfer-Encoding: chunked"
    chunks = (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 272
    trailers = b"0\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
    for name, request in (
        ("a foreign Host", get("/", "Host: evil.example")),
        ("a foreign Host with a slash at the end", post("/predict/", b"", "Host: evil.example")),
        ("a foreign Origin", post("/predict", b"x", "Origin: http://evil.example")),
        ("an Origin of null", post("/predict", b"x", "Origin: null")),
        ("a request of another site's page", post("/predict", b"x", "Sec-Fetch-Site: cross-site")),
        ("a header of 100,000 bytes", get("/", "X: " + "x" * 100_000)),
        ("10,000 headers", get("/", *(f"X-{i}: y" for i in range(10_000)))),
        ("a path of 100,000 bytes", get("/" + "x" * 100_000)),
        ("a path of 10,000 bytes", get("/" + "x" * 10_000)),
        ("a path with NUL", get("/%00")),
        ("a path that is not UTF-8", get("/%ff%fe")),
        ("a path upwards", get("/../../etc/passwd")),
        ("another model", post("/v1/models/other:predict", b"{}")),
        ("another version", post(f"/v1/models/{model}/versions/99:predict", b"{}")),
        ("no such path", get("/nothing")),
        ("GET of a POST path", get("/predict")),
        ("DELETE", get("/", method="DELETE")),
        ("TRACE", get("/", method="TRACE")),
        ("an unknown method", get("/", method="HACK")),
        ("a lower-case method", get("/", method="get")),
        ("no version", b"GET /predict\r\n\r\n"),
        ("HTTP/9.9", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n"),
        ("not HTTP", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 100),
        ("a header without a name", b"GET / HTTP/1.1\r\n: x\r\n\r\n"),
        ("NUL in a header", b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n"),
        ("a Content-Length that is not a number", get("/predict", "Content-Length: x", method="POST")),
        ("a negative Content-Length", get("/predict", "Content-Length: -1", method="POST")),
        ("a Content-Length of 30 digits", get("/predict", "Content-Length: " + "9" * 30, method="POST")),
        ("a Content-Length of 10 GB", get("/predict", "Content-Length: 10000000000", method="POST")),
        ("two lengths", post("/predict", b"0\r\n\r\n", chunked)),
        ("a chunk without a size", post("/predict", b"zz\r\n", chunked, length=-1)),
        ("a chunk of 2^64 bytes", post("/predict", b"10000000000000000\r\n", chunked, length=-1)),
        ("17 MiB in chunks", post("/predict", chunks, chunked, length=-1)),
        ("trailers of 20,000 bytes", post("/predict", trailers, chunked, length=-1)),
    ):  # fmt: skip
        yield Attack("HTTP", name, request)


def ask(port: int, request: bytes, seconds: float = 60.0) -> tuple[int, bytes]:
    """Send a request; returns status and body. The server may answer before it has read all of it."""
    with socket.create_connection(("127.0.0.1", port), seconds) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    return (int(match[1]) if match else 0), body


def is_refused(status: int, body: bytes) -> bool:
    """Whether an answer is a 4xx with a JSON error."""
    try:
        return 400 <= status < 500 and isinstance(json.loads(body)["error"], str)
    except (ValueError, KeyError, TypeError):
        return False


def probe(port: int, stop: Event, results: Any) -> None:
    """Poll the server every 50 ms until `stop`; then put (start, seconds) of each probe into `results`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    probes = []
    while not stop.is_set():
        started = time.monotonic()
        connection.request("GET", "/v2/health/live")
        answer = connection.getresponse()
        answer.read()
        seconds = time.monotonic() - started if answer.status == 200 else float("inf")
        probes.append((started, seconds))
        time.sleep(max(0.0, PROBE_SECONDS - seconds))
    results.put(probes)


def resident_mib(pid: int) -> float:
    """Resident memory of a process. Linux only."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measure(port: int, pid: int) -> dict[str, Any]:
    """Send the attacks one after another, while another process probes."""
    before = resident_mib(pid)
    peak = before
    context = multiprocessing.get_context("spawn")
    stop, results = context.Event(), context.Queue()
    prober = context.Process(target=probe, args=(port, stop, results))
    prober.start()
    wrong, statuses = [], Counter[tuple[str, int]]()
    sent: list[tuple[float, float, Attack]] = []
    try:
        time.sleep(1)
        for each in attacks():
            started = time.monotonic()
            status, body = ask(port, each.request)
            sent.append((started, time.monotonic(), each))
            statuses[each.group, status] += 1
            peak = max(peak, resident_mib(pid))
            if not is_refused(status, body):
                wrong.append(f"{each.group}, {each.name}: {status} {body[:200]!r}")
        time.sleep(2)
    finally:
        stop.set()
        probes = results.get(timeout=60)
        prober.join()
    seconds = sorted(seconds for _, seconds in probes)
    slowest = {
        f"{each.group}, {each.name}": max(
            (s for at, s in probes if at <= end and at + s >= start), default=0.0
        )
        for start, end, each in sent
    }
    return {
        "requests": statuses.total(),
        "statuses": {f"{group} {status}": count for (group, status), count in statuses.items()},
        "wrong": wrong,
        "probes": len(seconds),
        "probe_ms": {
            "median": 1000 * seconds[len(seconds) // 2],
            "p99": 1000 * seconds[len(seconds) * 99 // 100],
            "slowest": 1000 * seconds[-1],
        },
        "slowest_ms": {
            name: 1000 * slowest[name] for name in sorted(slowest, key=lambda name: -slowest[name])[:10]
        },
        "resident_mib": {"before": before, "peak": peak, "after": resident_mib(pid)},
    }


def main() -> int:
    """Measure and print one JSON object; return 0 if everything was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an exported artefact of a CIFAR-10 model")
    options = parser.parse_args()
    command = [sys.executable, "-m", "cifar_trainer", "serve", "--model", str(options.model)]
    command += ["--port", "0", "--name", "cifar10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline()
            if not address:
                sys.exit("The server did not start.")
            result = measure(int(address.rstrip("/\n").rpartition(":")[2]), process.pid)
        finally:
            process.terminate()
    print(json.dumps(result, indent=1))
    memory = result["resident_mib"]
    slow = result["probe_ms"]["slowest"] > 1000 * SLOWEST_PROBE
    return int(bool(result["wrong"]) or slow or memory["after"] - memory["before"] > MEMORY_MIB)


if __name__ == "__main__":
    sys.exit(main())
