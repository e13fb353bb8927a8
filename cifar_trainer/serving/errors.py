"""Errors that the server returns."""

import msgspec


class ErrorBody(msgspec.Struct):
    """The JSON of an error. TensorFlow Serving and the Open Inference Protocol share `error`."""

    error: str
    request_id: str


class RequestError(Exception):
    """A request that is refused or has failed.

    Args:
        status: the HTTP status.
        cause: one word for `/metrics`.
        message: tells the client what is wrong.
        retry_after: seconds after which to try again; None if that is of no use.
    """

    def __init__(self, status: int, cause: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.retry_after = retry_after


def bad_request(message: str) -> RequestError:
    """400: the request is malformed."""
    return RequestError(400, "bad_request", message)


def not_found(message: str) -> RequestError:
    """404: unknown model, version or path."""
    return RequestError(404, "not_found", message)
