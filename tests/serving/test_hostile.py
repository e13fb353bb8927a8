"""Malformed, huge, nested, wrongly typed and hostile requests are refused, and do not stop the others."""

import asyncio
import gzip
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import load_script
from serving_server import SHAPE, Running, images_of, running, web

from cifar_trainer.images import encode_png
from cifar_trainer.serving.api import bodies, tensorflow_serving
from cifar_trainer.serving.settings import Limits

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "hostile_requests.py"
PREDICT, INFER = "/v1/models/colours:predict", "/v2/models/colours/infer"


@pytest.fixture(scope="module")
def hostile() -> Any:
    """The module benchmarks/hostile_requests.py."""
    return load_script(BENCHMARK)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server that takes bodies of a megabyte, so that large ones are cheap."""
    with running(limits=Limits(body_bytes=2**20, header_seconds=2)) as started:
        yield started


def test_every_hostile_request_gets_a_4xx_with_a_json_error(server: Running, hostile: Any) -> None:
    wrong, count = [], 0
    for attack in hostile.attacks("colours", SHAPE, large=100_000):
        status, body = hostile.ask(server.port, attack.request)
        count += 1
        if not hostile.is_refused(status, body):
            wrong.append((attack.group, attack.name, status, body[:200]))
    assert wrong == []
    assert count >= 200
    assert server.counted("errors_total", cause="internal") == 0


def note_threads(monkeypatch: pytest.MonkeyPatch, target: Any, name: str) -> set[bool]:
    """A set that gains True for each call of a function in the event loop's thread, else False."""
    seen: set[bool] = set()
    original = getattr(target, name)

    def noting(*arguments: Any, **options: Any) -> Any:
        try:
            asyncio.get_running_loop()
            seen.add(True)
        except RuntimeError:
            seen.add(False)
        return original(*arguments, **options)

    monkeypatch.setattr(target, name, noting)
    return seen


def test_large_json_is_not_decoded_in_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        seen = note_threads(monkeypatch, tensorflow_serving, "_parse")
        answer = web.post(server.url + PREDICT, json={"instances": images_of(200).tolist()})
    assert answer.status_code == 200
    assert seen == {False}


@pytest.mark.parametrize("size", [1, 500])
def test_images_of_any_size_are_not_decoded_in_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, png: bytes, size: int
) -> None:
    from cifar_trainer.images import Preprocessing

    with running() as server:
        seen = note_threads(monkeypatch, Preprocessing, "decode")
        answers = [
            web.post(f"{server.url}/predict", content=png * size),
            web.post(f"{server.url}/predict", files={"image": png * size}),
        ]
    assert {answer.status_code for answer in answers} == {200}
    assert seen == {False}


def test_the_images_of_a_request_are_counted_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Any] = []
    original = bodies._decoder
    monkeypatch.setattr(bodies, "_decoder", lambda *key: decoded.append(key) or original(*key))
    with running(max_batch_size=2, max_enqueued_batches=2) as server:
        pixels = images_of(5).tolist()
        file = {"b64": "AAAA"}
        tensor = {"name": "images", "datatype": "UINT8", "shape": [5, *SHAPE], "data": pixels}
        answers = [
            web.post(server.url + PREDICT, json={"instances": pixels}),
            web.post(server.url + PREDICT, json={"signature_name": "serving_bytes", "instances": [file] * 5}),
            web.post(server.url + INFER, json={"inputs": [tensor]}),
        ]
    assert [answer.status_code for answer in answers] == [413, 413, 413]
    assert decoded == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PREDICT, {"signature_name": [1], "instances": [1]}),
        (PREDICT, {"signature_name": {}, "instances": [1]}),
        (INFER, {"id": {}}),
        (INFER, {"inputs": [{"name": ["x"]}]}),
        # NumPy would make 500 strings of 100,000 characters of it, 200 MB.
        (PREDICT, {"instances": ["x" * 100_000] + [""] * 500}),
    ],
)
def test_a_value_of_another_type_is_400_and_named(server: Running, path: str, body: dict[str, Any]) -> None:
    answer = web.post(server.url + path, json=body)
    assert answer.status_code == 400
    assert re.search("Expected `.*`, got `", answer.json()["error"])


def test_a_compressed_body_is_decompressed_up_to_the_limit(server: Running) -> None:
    body = json.dumps({"instances": images_of(3).tolist()}).encode()
    headers = {"Content-Encoding": "gzip"}
    good = web.post(server.url + PREDICT, content=gzip.compress(body), headers=headers)
    bomb = web.post(server.url + PREDICT, content=gzip.compress(b" " * 2**24), headers=headers)
    assert (good.status_code, bomb.status_code) == (200, 413)


def test_an_image_of_more_pixels_than_the_server_decodes_is_refused(png: bytes) -> None:
    import numpy as np

    large = encode_png(np.zeros((30, 40, 3), np.uint8))
    with running(limits=Limits(image_pixels=1000)) as server:
        answers = [web.post(f"{server.url}/predict", content=content) for content in (png, large)]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert "the limit is 1,000" in answers[1].json()["error"]


def test_an_image_that_is_slow_to_decode_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch, png: bytes
) -> None:
    from cifar_trainer.images import Preprocessing

    started, release = threading.Event(), threading.Event()
    original = Preprocessing.decode

    def slow(self: Preprocessing, content: bytes, **options: Any) -> Any:
        if content.endswith(b"slow"):
            started.set()
            assert release.wait(20)
        return original(self, content, **options)

    monkeypatch.setattr(Preprocessing, "decode", slow)
    with running() as server:
        thread = threading.Thread(
            target=web.post, args=(f"{server.url}/predict",), kwargs={"content": png + b"slow"}
        )
        thread.start()
        assert started.wait(10)
        assert web.get(f"{server.url}/v2/health/live").is_success
        assert web.post(f"{server.url}/predict", content=png).is_success
        release.set()
        thread.join(20)
