"""ASGI middleware for HTTP requests: request ids, metrics, access, and limits."""

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import re
import secrets
import socket
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_trainer.errors import printable
from cifar_trainer.serving.api.bodies import json_response
from cifar_trainer.serving.errors import ErrorBody, RequestError, not_found
from cifar_trainer.serving.monitoring import Metrics
from cifar_trainer.serving.settings import Settings

logger = logging.getLogger(__name__)
access = logging.getLogger("cifar_trainer.serving.access")

#: Paths that need no key: a page without data, and the probes.
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
#: A client's request id that cannot forge or break a line of the log.
_REQUEST_ID = re.compile(r"[\w.:=+/-]{1,128}", re.ASCII)
#: nginx's status for a client that closed the connection. Nobody receives it.
_CLIENT_GONE = 499
#: Set in the scope once the body was read. Until then, the connection cannot be used again.
_BODY_READ = "cifar_trainer.body_read"
#: Time to read the rest of a refused body. Many clients read the answer only after they have sent all of it;
#: if the connection were closed before that, they would see a reset instead.
_DISCARD_SECONDS = 5.0


def measured(
    app: ASGIApp, metrics: Metrics, route_of: Callable[[Scope], str], is_stopping: Callable[[], bool]
) -> ASGIApp:
    """Give each request an id, turn exceptions into JSON errors, and count and log requests.

    Args:
        app: answers the requests.
        metrics: counts them.
        route_of: a path's pattern.
        is_stopping: whether to ask clients to close their connections.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        request_id = Headers(scope=scope).get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(8)
        status = _CLIENT_GONE

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(b"x-request-id", request_id.encode("ascii"))]
                if is_stopping():
                    added.append((b"connection", b"close"))
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        async def receive_noting_the_end() -> Message:
            message = await receive()
            if not message.get("more_body"):
                scope[_BODY_READ] = True
            return message

        async def send_then_discard(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DISCARD_SECONDS):
                        while not scope.get(_BODY_READ):
                            await receive_noting_the_end()
                message = {"type": "http.response.body"}
            await send_with_id(message)

        problem: RequestError | None = None
        try:
            await app(scope, receive_noting_the_end, send_with_id)
        except RequestError as error:
            problem = error
        except HTTPException as error:
            problem = _routing_error(scope, error)
        except ClientDisconnect:
            metrics.errors.labels("client_gone").inc()
        except Exception:
            logger.exception("Request %s to %s failed.", request_id, printable(scope["path"]))
            problem = RequestError(500, "internal", "The server failed. See its log.")
        finally:
            seconds = time.perf_counter() - started
            if problem is not None:
                metrics.errors.labels(problem.cause).inc()
                if status == _CLIENT_GONE:
                    await _error_response(problem, request_id, scope)(scope, receive, send_then_discard)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.count_request(route_of(scope), method, status, seconds)
            client = (scope.get("client") or ("-",))[0]
            access.info(
                '%s "%s %s" %d %.1f ms %s',
                *(client, method, printable(scope["path"]), status, 1000 * seconds, request_id),
            )
            # Break the cycle with this frame: its traceback keeps the body alive.
            problem = None

    return call


def _routing_error(scope: Scope, error: HTTPException) -> RequestError:
    """A path or method that does not exist, in the words of the protocol that it belongs to."""
    method, path = scope["method"], printable(scope["path"])
    if path.startswith("/v1/"):
        return RequestError(error.status_code, "not_found", f"Malformed request: {method} {path}")
    if error.status_code == 405:
        return RequestError(405, "not_found", f"{path} does not accept {method}.")
    return not_found(f"There is no path {path}. See / for a page.")


def _error_response(problem: RequestError, request_id: str, scope: Scope) -> Response:
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if not scope.get(_BODY_READ):
        headers["Connection"] = "close"
    return json_response(ErrorBody(str(problem), request_id), problem.status, headers)


def same_site(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Refuse requests that pages of other sites make a browser send.

    A name that resolves to this machine lets a foreign page read answers (DNS rebinding), so `Host` has to
    be an address, `localhost`, this machine's name, `--host` or `--allowed-host`. Foreign pages may also send
    requests without reading the answer; browsers mark those with `Origin` and `Sec-Fetch-Site`.
    """
    trusted = {name.lower() for name in settings.allowed_hosts}
    names = {"localhost", settings.host.lower(), socket.gethostname().lower(), *trusted}

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host and "*" not in trusted and not _is_address(name := _name_of(host)) and name not in names:
            raise RequestError(
                403,
                "forbidden",
                f"The Host header is {printable(host)!r}, which is not a name of this server. "
                "The server's owner can allow it with --allowed-host.",
            )
        origin = headers.get("origin")
        if origin is None:
            foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        else:
            site = origin.lower().partition("://")[2]
            foreign = site != host and _name_of(site) not in trusted
        if foreign and scope["method"] not in ("GET", "HEAD"):
            raise RequestError(403, "forbidden", "Requests from pages of other sites are refused.")
        await app(scope, receive, send)

    return call


def _name_of(host: str) -> str:
    """The name or address in a Host header, without its port."""
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return name.rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def authorized(app: ASGIApp, api_key: str | None, key_page: Response) -> ASGIApp:
    """Require the key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; browsers get a page that asks."""
    if api_key is None:
        return app
    key = api_key.encode("ascii")

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        sent = bearer if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if scope["path"] in OPEN_PATHS or hmac.compare_digest(sent.encode("latin-1"), key):
            await app(scope, receive, send)
        elif scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            await key_page(scope, receive, send)
        else:
            raise RequestError(
                401,
                "unauthorized",
                "A key is needed. Send it as Authorization: Bearer KEY, or X-API-Key: KEY.",
            )

    return call


def limited(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Read the body within its limits, answer before the deadline, and stop if the client leaves."""
    limits = settings.limits
    held = 0

    def check_size(size: int) -> None:
        if size > limits.body_bytes:
            raise RequestError(413, "too_large", f"The body is larger than {limits.body_bytes:,} bytes.")

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal held
        body = bytearray()
        try:
            async with asyncio.timeout(settings.deadline):
                check_size(int(Headers(scope=scope).get("content-length", "0")))
                async for part in Request(scope, receive).stream():
                    check_size(len(body) + len(part))
                    if held + len(part) > limits.bodies_bytes:
                        raise RequestError(503, "busy", "Too many large requests. Try again later.", 1)
                    held += len(part)
                    body += part
                await _answer(app, scope, receive, send, bytes(body))
        except TimeoutError:
            seconds = f"{settings.deadline:g} s"
            if not scope.get(_BODY_READ):
                raise RequestError(
                    408, "slow_client", f"The request was not complete after {seconds}."
                ) from None
            raise RequestError(504, "deadline", f"There was no answer within {seconds}.", 1) from None
        finally:
            held -= len(body)

    return call


async def _answer(app: ASGIApp, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
    """Let the app answer a body; raise ClientDisconnect and drop the work if the client leaves first."""

    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    answering = asyncio.current_task()
    assert answering is not None
    over = False

    def stop(_: object) -> None:
        if not over:
            answering.cancel()

    # After the body, the next message is the disconnect.
    leaving = asyncio.ensure_future(receive())
    leaving.add_done_callback(stop)
    try:
        await app(scope, replay, send)
    except asyncio.CancelledError:
        if not leaving.done():
            raise
        answering.uncancel()
        raise ClientDisconnect from None
    finally:
        over = True
        leaving.cancel()
