"""What a request is answered with where it is not answered."""


class RequestError(Exception):
    """A request that is refused or could not be answered.

    Attributes:
        status: the HTTP status.
        cause: one word for it, as `/metrics` counts it.
        retry_after: seconds after which to try again; None where trying again is no use.
    """

    def __init__(self, status: int, cause: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.cause = cause
        self.retry_after = retry_after


def bad_request(message: str) -> RequestError:
    """400: the request is not what it should be."""
    return RequestError(400, "bad_request", message)


def not_found(message: str) -> RequestError:
    """404: there is no such model, version or path."""
    return RequestError(404, "not_found", message)
