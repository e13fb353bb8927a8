"""Who may ask: the key, and requests that pages of other sites make a browser send."""

import logging
import re
from collections.abc import Iterator

import httpx
import pytest
from serving_server import Running, running, until, web

from cifar_trainer.errors import UsageError
from cifar_trainer.serving.settings import Settings


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A server that another name than its own is allowed for."""
    with running(allowed_hosts=("ours.example",)) as started:
        yield started


def test_without_the_key_only_the_page_and_the_probes_answer(png: bytes) -> None:
    paths = ["/metrics", "/monitoring", "/v1/models/colours", "/v2/models/colours", "/predict", "/nothing"]
    with running(api_key="secret") as server:
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Basic secret"}):
            refused = [web.get(server.url + path, headers=headers) for path in paths]
            assert {answer.status_code for answer in refused} == {401}
            assert all(answer.json()["error"] for answer in refused)
        for path in ("/", "/v2/health/live", "/v2/health/ready"):
            assert web.get(server.url + path).status_code == 200
        for headers in ({"Authorization": "Bearer secret"}, {"X-API-Key": "secret"}):
            assert web.post(f"{server.url}/predict", content=png, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8501", 200), ("127.0.0.1:1", 200), ("[::1]:8501", 200),
        ("10.0.0.7", 200), ("ours.example", 200), ("evil.example", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8501", 403), ("evil.example:127.0.0.1", 403), ("[evil.example]", 403),
    ],
)  # fmt: skip
def test_a_name_that_is_not_the_server_s_is_refused_as_host(server: Running, host: str, status: int) -> None:
    # With DNS rebinding, evil.example resolves to 127.0.0.1, and its page could read the answers.
    assert web.get(f"{server.url}/v2/models/colours", headers={"Host": host}).status_code == status


def test_any_host_can_be_allowed() -> None:
    with running(allowed_hosts=("*",)) as server:
        assert web.get(server.url, headers={"Host": "any.example"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:8501"}, 200),
        ({"Origin": "https://ours.example"}, 200),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8501"}, 200),
    ],
)
def test_a_page_of_another_site_cannot_make_a_browser_send_images(
    server: Running, png: bytes, headers: dict[str, str], status: int
) -> None:
    headers = {"Host": "localhost:8501", "Content-Type": "text/plain", **headers}
    before = server.service.model.monitor.report().images
    answer = web.post(f"{server.url}/predict", content=png, headers=headers)
    assert answer.status_code == status
    assert server.service.model.monitor.report().images == before + (status == 200)


def test_settings_do_not_show_their_secrets() -> None:
    settings = Settings("a", api_key="s3cret", alert_webhook="https://hooks.example/s3cret")
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("name", ["", ".", "..", "a/b", "a:b", "a b", "a?b", "a%2fb", "a\n"]),
        ("api_key", ["", " ", "ä"]),
        ("alert_webhook", ["hooks.example", "ftp://hooks.example", "https://"]),
    ],
)
def test_an_invalid_setting_is_wrong_usage(option: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(UsageError, match="--" + option.replace("_", "-")):
            Settings(**{"name": "a", option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("sent", ["Root=1-67891233-abcdef", "", "a b", "x" * 129, "a\u00e4"])
def test_a_request_id_is_in_the_answer_the_error_and_the_log(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, sent: str
) -> None:
    # Others than plain ids are replaced: they could forge a line of a log.
    is_kept = sent.startswith("Root=")
    with caplog.at_level(logging.INFO, "cifar_trainer.serving.access"):
        found = client.get("/v2/health/live", headers={"X-Request-ID": sent.encode()})
        missing = client.get("/nothing%0a", headers={"X-Request-ID": sent.encode()})
        assert until(lambda: len(caplog.records) == 2)
    ids = [answer.headers["X-Request-ID"] for answer in (found, missing)]
    assert missing.json()["request_id"] == ids[1]
    lines = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf'127.0.0.1 "GET /v2/health/live" 200 [\d.]+ ms {re.escape(ids[0])}', lines[0])
    assert re.fullmatch(rf'127.0.0.1 "GET /nothing\\n" 404 [\d.]+ ms {re.escape(ids[1])}', lines[1])
    if is_kept:
        assert ids == [sent, sent]
    else:
        assert len({*ids, sent}) == 3
        assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)
