"""The clean process of the gate: an artefact in its own runtime, fed images of a known answer.

    python -m cifar_trainer.artefacts.probe ARTEFACT BATCH_SIZE...

Images come by stdin (.npz of `images`, and of image files as `pack_files` makes it), answers go
to stdout (.npz): nothing of it touches the disk.
"""

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cifar_trainer.artefacts.formats import Predictions, TakesBytes, open_artefact
from cifar_trainer.errors import CifarTrainerError


def pack_files(contents: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Files as two arrays: `bytes`, uint8, one after the other, and `lengths`, int64 [N]."""
    return {
        "bytes": np.frombuffer(b"".join(contents), np.uint8),
        "lengths": np.array([len(content) for content in contents], np.int64),
    }


def unpack_files(arrays: Mapping[str, np.ndarray]) -> list[bytes]:
    """What `pack_files` has packed."""
    ends = np.cumsum(arrays["lengths"])
    whole = arrays["bytes"].tobytes()
    return [whole[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]


def main(artefact: str, *batch_sizes: str) -> int:
    """Classify the images at each batch size; 1 where the artefact cannot be used."""
    # A runtime's own chatter must not get into the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    given = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    images, encoded = given["images"], unpack_files(given)
    try:
        opened = open_artefact(Path(artefact))
        arrays = {}
        for size in map(int, batch_sizes):
            parts = [opened.predict(images[i : i + size]) for i in range(0, len(images), size)]
            arrays.update({f"{name}_{size}": value for name, value in _join(parts).items()})
        if isinstance(opened, TakesBytes):
            arrays.update({f"{k}_encoded": v for k, v in _join([opened.predict_bytes(encoded)]).items()})
    except CifarTrainerError as error:
        print(error, file=sys.stderr)
        return 1
    buffer = io.BytesIO()
    np.savez(buffer, classes=np.array(opened.classes), **arrays)  # type: ignore[arg-type]
    with answer:
        answer.write(buffer.getbuffer())
    return 0


def _join(parts: list[Predictions]) -> dict[str, np.ndarray]:
    return {
        "logits": np.concatenate([part.logits for part in parts]),
        "probabilities": np.concatenate([part.probabilities for part in parts]),
        "class_id": np.concatenate([part.class_id for part in parts]),
        "class_name": np.array([name for part in parts for name in part.class_name]),
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
