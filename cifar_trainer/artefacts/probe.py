"""The clean process of the gate: an artefact in its own runtime, fed pictures of a known answer.

    python -m cifar_trainer.artefacts.probe ARTEFACT BATCH_SIZE...

Pictures come by stdin (.npy), answers go to stdout (.npz): nothing of it touches the disk.
"""

import io
import os
import sys
from pathlib import Path

import numpy as np

from cifar_trainer.artefacts.formats import Predictions, TakesBytes, open_artefact
from cifar_trainer.errors import CifarTrainerError
from cifar_trainer.images import encode_png

#: Pictures that an artefact which can decode is given as PNG.
ENCODED = 1_000


def main(artefact: str, *batch_sizes: str) -> int:
    """Classify the pictures at each batch size; 1 where the artefact cannot be used."""
    # A runtime's own chatter must not get into the answer.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    images = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    try:
        opened = open_artefact(Path(artefact))
        arrays = {}
        for size in map(int, batch_sizes):
            parts = [opened.predict(images[i : i + size]) for i in range(0, len(images), size)]
            arrays.update({f"{name}_{size}": value for name, value in _join(parts).items()})
        if isinstance(opened, TakesBytes):
            encoded = [encode_png(image) for image in images[:ENCODED]]
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
