"""What stands before every request: its limits, its deadline, its key, and its line in the statistics."""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cifar_trainer.serving.problems import RequestError
from cifar_trainer.serving.settings import Limits
from cifar_trainer.serving.telemetry import Telemetry

logger = logging.getLogger(__name__)

#: What anybody may ask: the page, which holds nothing, and whether the server lives.
OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

#: What a request gets that the server is to blame for.
FAILURE = RequestError(500, "internal", "The server failed. Its log says why.")


class Guard:
    """ASGI middleware that reads a request's body within its limits, and gives up what nobody waits for.

    Args:
        app: answers the requests.
        limits: of bodies and time.
        api_key: that requests must bring, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.
        telemetry: counts them.
        route_of: a path's pattern, for the statistics.
        is_stopping: whether clients are to be told to ask elsewhere from now on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        api_key: str | None,
        telemetry: Telemetry,
        route_of: Callable[[Scope], str],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._app = app
        self._limits = limits
        self._key = None if api_key is None else api_key.encode("ascii")
        self._telemetry = telemetry
        self._route_of = route_of
        self._is_stopping = is_stopping
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def noting_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._is_stopping():
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if taken + count > self._limits.body_bytes:
                raise RequestError(
                    413, "too_large", f"The body is larger than {self._limits.body_bytes:,} bytes."
                )
            if self._held + count > self._limits.bodies_bytes:
                raise RequestError(503, "busy", "Too many large requests at once. Try again later.", 1)
            taken += count
            self._held += count

        problem: RequestError | None = None
        reading = True
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                self._check(scope)
                body = await self._read(scope, receive, take)
                reading = False
                if body is None or not await self._answer(scope, receive, noting_send, body):
                    self._telemetry.problems.labels("client_gone").inc()
                    return
        except RequestError as error:
            problem = error
        except TimeoutError:
            seconds = f"{self._limits.request_seconds:g} s"
            problem = (
                RequestError(408, "slow_client", f"The request was not complete after {seconds}.")
                if reading
                else RequestError(504, "deadline", f"There was no answer within {seconds}.", 1)
            )
        except Exception:
            logger.exception("A request to %s failed.", scope["path"])
            problem = FAILURE
        finally:
            self._held -= taken
            if problem is not None:
                self._telemetry.problems.labels(problem.cause).inc()
                if status == 0:
                    await error_response(problem, close=reading)(scope, receive, noting_send)
            route = self._route_of(scope)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._telemetry.requests.labels(route, method, str(status)).inc()
            self._telemetry.seconds.labels(route).observe(time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self._limits.body_bytes:
            raise RequestError(
                413,
                "too_large",
                f"The body has {announced.decode('ascii', 'replace')} bytes; at most "
                f"{self._limits.body_bytes:,} are read.",
            )
        if self._key is None or scope["path"] in OPEN_PATHS:
            return
        scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
        given = bearer if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
        if not hmac.compare_digest(given, self._key):
            raise RequestError(
                401, "unauthorized", "A key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY."
            )

    async def _read(self, scope: Scope, receive: Receive, take: Callable[[int], None]) -> bytes | None:
        """The body; None where the client has gone before its end."""
        parts = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            take(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> bool:
        """Let the app answer; False where the client has gone first, and the work was given up."""
        done = False

        async def replay() -> Message:
            nonlocal done
            if done:
                # Starlette asks on only to learn of a disconnect, which ends this task anyway.
                await asyncio.Event().wait()
            done = True
            return {"type": "http.request", "body": body, "more_body": False}

        answering = asyncio.current_task()
        assert answering is not None
        over = gone = False

        def give_up(watching: "asyncio.Task[Message]") -> None:
            nonlocal gone
            if not over and not watching.cancelled():
                gone = True
                answering.cancel()

        # What comes after the body is the news that the client has gone.
        watching = asyncio.ensure_future(receive())
        watching.add_done_callback(give_up)
        try:
            await self._app(scope, replay, send)
            return True
        except asyncio.CancelledError:
            if not gone:
                raise
            answering.uncancel()
            return False
        finally:
            over = True
            watching.cancel()


def error_response(problem: RequestError, *, close: bool = False) -> JSONResponse:
    """A problem in the form that TensorFlow Serving and the Open Inference Protocol share."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if close:
        headers["Connection"] = "close"
    return JSONResponse({"error": str(problem)}, problem.status, headers)
