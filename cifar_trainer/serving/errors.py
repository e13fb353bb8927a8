"""Errors that the server returns."""


class RequestError(Exception):
    """A request that is refused or failed.

    Attributes:
        status: the HTTP status.
        cause: one word for `/metrics`.
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
    """404: no such model, version or path."""
    return RequestError(404, "not_found", message)
