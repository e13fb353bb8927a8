"""ASGI middleware: metrics, who may ask, and the limits of a request."""

import asyncio
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_trainer.errors import printable
from cifar_trainer.serving.errors import RequestError
from cifar_trainer.serving.monitoring import Metrics
from cifar_trainer.serving.settings import Limits, Settings

logger = logging.getLogger(__name__)
access = logging.getLogger("cifar_trainer.serving.access")

#: Paths that need no key: a page that holds no data, and the probes.
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
#: nginx's status for a client that closed the connection. Nobody receives it.
_CLIENT_GONE = 499

#: Set in a request's scope once its body was read. Otherwise the connection cannot be used again.
_BODY_READ = "cifar_trainer.body_read"

_FAILURE = RequestError(500, "internal", "The server failed. See its log.")


def measured(
    app: ASGIApp, metrics: Metrics, route_of: Callable[[Scope], str], is_stopping: Callable[[], bool]
) -> ASGIApp:
    """Turn exceptions into JSON errors, and count and log each request.

    Args:
        app: answers the requests.
        metrics: counts them.
        route_of: a path's pattern.
        is_stopping: whether to ask clients to close their connections.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started = time.perf_counter()
        status = _CLIENT_GONE

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if is_stopping():
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        problem: RequestError | None = None
        try:
            await app(scope, receive, noting_send)
        except RequestError as error:
            problem = error
        except HTTPException as error:
            problem = _routing_error(scope, error)
        except ClientDisconnect:
            metrics.errors.labels("client_gone").inc()
        except Exception:
            logger.exception("A request to %s failed.", printable(scope["path"]))
            problem = _FAILURE
        finally:
            if problem is not None:
                metrics.errors.labels(problem.cause).inc()
                if status == _CLIENT_GONE:
                    await _error_response(problem, close=not scope.get(_BODY_READ))(
                        scope, receive, noting_send
                    )
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in _METHODS else "other"
            metrics.count_request(route_of(scope), method, status, seconds)
            client = (scope.get("client") or ("-",))[0]
            access.info(
                '%s "%s %s" %d %.1f ms', client, method, printable(scope["path"]), status, 1000 * seconds
            )
            # Its traceback refers to this frame, and to those that hold the body.
            problem = None

    return call


def _routing_error(scope: Scope, error: HTTPException) -> RequestError:
    """A path or method that does not exist, in the words of the protocol that it belongs to."""
    method, path = scope["method"], printable(scope["path"])
    if path.startswith("/v1/"):
        return RequestError(error.status_code, "not_found", f"Malformed request: {method} {path}")
    if error.status_code == 405:
        return RequestError(405, "not_found", f"{path} does not accept {method}.")
    return RequestError(error.status_code, "not_found", f"There is no path {path}. See / for a page.")


def _error_response(problem: RequestError, *, close: bool) -> JSONResponse:
    """The form of an error that TensorFlow Serving and the Open Inference Protocol share."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if close:
        headers["Connection"] = "close"
    return JSONResponse({"error": str(problem)}, problem.status, headers)


def same_site(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Refuse requests that pages of other sites make a browser send.

    A name that resolves to this machine lets a foreign page read answers (DNS rebinding), so `Host` has to
    be an address, `localhost`, this machine's name, `--host` or `--allowed-host`. Foreign pages may also send
    requests without reading the answer; browsers mark those with `Origin` and `Sec-Fetch-Site`.
    """
    trusted = {name.lower() for name in settings.allowed_hosts}
    names = {"localhost", settings.host.lower(), socket.gethostname().lower(), *trusted}

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            host = headers.get("host", "").lower()
            if host and "*" not in trusted and not (_is_address(_name_of(host)) or _name_of(host) in names):
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
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            headers = dict(scope["headers"])
            scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
            given = bearer if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
            if not hmac.compare_digest(given, key):
                if scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b""):
                    await key_page(scope, receive, send)
                    return
                raise RequestError(
                    401,
                    "unauthorized",
                    "A key is needed. Send it as Authorization: Bearer KEY, or X-API-Key: KEY.",
                )
        await app(scope, receive, send)

    return call


def limited(app: ASGIApp, limits: Limits) -> ASGIApp:
    """Read the body within its limits, answer before the deadline, and stop if the client leaves."""
    held = 0

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal held
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = bytearray()
        try:
            async with asyncio.timeout(limits.request_seconds):
                too_large = RequestError(
                    413, "too_large", f"The body is larger than {limits.body_bytes:,} bytes."
                )
                if int(Headers(scope=scope).get("content-length", "0")) > limits.body_bytes:
                    raise too_large
                async for part in Request(scope, receive).stream():
                    if len(body) + len(part) > limits.body_bytes:
                        raise too_large
                    if held + len(part) > limits.bodies_bytes:
                        raise RequestError(503, "busy", "Too many large requests. Try again later.", 1)
                    held += len(part)
                    body += part
                scope[_BODY_READ] = True
                await _answer(app, scope, receive, send, bytes(body))
        except TimeoutError:
            seconds = f"{limits.request_seconds:g} s"
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
    over = gone = False

    def stop(leaving: "asyncio.Task[Message]") -> None:
        nonlocal gone
        if not over and not leaving.cancelled():
            gone = True
            answering.cancel()

    # After the body, the next message is the disconnect.
    leaving = asyncio.ensure_future(receive())
    leaving.add_done_callback(stop)
    try:
        await app(scope, replay, send)
    except asyncio.CancelledError:
        if not gone:
            raise
        answering.uncancel()
        raise ClientDisconnect from None
    finally:
        over = True
        leaving.cancel()
