"""Read the pickles of the official Python versions without running the functions that they name.

A pickle names functions and calls them. Here, the few names that a pickled NumPy array needs are replaced by
stand-ins that only record their arguments. Every other name is refused before it is imported, and NumPy's
code is not called either. Memory is bounded: the number of a pickle's parts is limited, and stand-ins return
at most as many bytes as the pickle has.
"""

import dataclasses
import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from cifar_trainer.errors import DataError


@dataclasses.dataclass
class PickledArray:
    """What a pickle says about an array; its pixels are not copied."""

    state: tuple[Any, ...] | None = None

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, tuple) else None

    def to_uint8(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """The array if it is uint8, of this shape and in C order; else None."""
        if self.state is None or len(self.state) != 5:
            return None
        _, actual, dtype, fortran_order, content = self.state
        fits = actual == shape and isinstance(dtype, _PickledDtype) and dtype.name in ("u1", b"u1")
        whole = isinstance(content, bytes | bytearray) and len(content) == int(np.prod(shape))
        if not (fits and whole and not fortran_order):
            return None
        return np.frombuffer(content, np.uint8).reshape(shape)

    def __str__(self) -> str:
        if self.state is None or len(self.state) != 5:
            return "an array without content"
        return f"an array of {self.state[2]} {self.state[1]}"


@dataclasses.dataclass
class _PickledDtype:
    name: Any

    def __setstate__(self, state: Any) -> None:
        pass

    def __str__(self) -> str:
        return self.name.decode("latin-1") if isinstance(self.name, bytes) else str(self.name)


class _StandIn:
    """Replaces a function that a pickle names. It can only be called."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        self._build = build

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function's state cannot be set")


def _from_buffer(content: bytes | bytearray, dtype: Any, shape: Any, order: str) -> PickledArray:
    if not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError(f"an array's content is a {type(content).__name__}, expected bytes")
    return PickledArray((1, shape, dtype, order == "F", content))


#: Maximum number of parts; CIFAR-100's training file has 350,000.
_MAX_PARTS = 1_000_000
#: The allowed names, besides `_codecs.encode`, with which Python 3 writes bytes in protocols of Python 2.
_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _StandIn(lambda *_: PickledArray()),
    ("numpy.core.numeric", "_frombuffer"): _StandIn(_from_buffer),
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _StandIn(lambda name, *_: _PickledDtype(name)),
}


class _RefusedError(Exception):
    """A name that is not allowed. (Pickle's own errors mean damage.)"""


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._bytes_left = len(content)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _StandIn(self._encode)
        try:
            # NumPy 2 renamed its core.
            return _ALLOWED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def _encode(self, text: str, encoding: str) -> bytes:
        """Encode text as Latin-1, within a budget: a pickle may refer to one text many times."""
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise pickle.UnpicklingError("it unpacks to more bytes than it has")
        return text.encode("latin-1")


def load_dictionary(content: bytes, where: str) -> dict[str, Any]:
    """Read a dictionary of arrays, strings and numbers that was pickled by Python 2 or 3.

    Keys become str; strings of Python 2 are bytes, arrays are `PickledArray`. Raises DataError if the pickle
    contains anything else, or is damaged.
    """
    try:
        _check_parts(content)
        value = _Unpickler(content).load()
        if isinstance(value, dict):
            return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in value.items()}
    except _RefusedError as error:
        raise DataError(
            f"{where} is refused: its pickle asks for {error}, which reading images does not need. "
            "None of it was run. Fetch the archive again, from a source that you trust."
        ) from None
    except Exception as error:  # A damaged pickle can raise any exception.
        kind = type(error).__name__
        raise DataError(f"{where} is a damaged pickle: {kind}: {error}. Fetch the archive again.") from error
    raise DataError(f"{where} contains a {type(value).__name__}, expected a dictionary.")


def _check_parts(content: bytes) -> None:
    """Raise UnpicklingError if a pickle has too many parts, or numbers them beyond its length.

    The unpickler allocates a table up to the largest number, so ten bytes could allocate gigabytes; and each
    byte can create an object of 56 bytes.
    """
    for count, (opcode, number, _) in enumerate(pickletools.genops(content)):
        if "PUT" in opcode.name and number is not None and number > len(content):
            raise pickle.UnpicklingError(f"it numbers a part {number:,}, but has only {len(content):,} bytes")
        if count >= _MAX_PARTS:
            raise pickle.UnpicklingError(f"it has more than {_MAX_PARTS:,} parts")
