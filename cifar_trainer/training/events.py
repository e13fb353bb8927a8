"""TensorBoard's event files: cut back to a step, so that a resumed run doubles nothing."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event

from cifar_trainer import files


def cut_back(folder: Path, last_step: int) -> None:
    """Drop the events below `folder` whose step is above `last_step`.

    The events that stay are written to one file, which then takes the place of the
    others; each once, for a kill in between has left both. A record that a kill has cut
    short ends its file, as it does for TensorBoard.

    Raises:
        OSError: the new file could not be written; the old ones are untouched.
    """
    old = sorted(folder.glob("events.out.tfevents.*"))
    if not old:
        return
    target = folder / f"events.out.tfevents.{int(time.time())}.{os.getpid()}.resumed"
    partial = folder / f"{files.PARTIAL_PREFIX}{target.name}"
    try:
        kept: set[bytes] = set()
        with tf.io.TFRecordWriter(os.fsencode(partial)) as writer:
            for path in old:
                for record in _records(path):
                    digest = hashlib.sha256(record).digest()
                    if digest not in kept and Event.FromString(record).step <= last_step:
                        writer.write(record)
                        kept.add(digest)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    for path in old:
        if path != target:
            path.unlink()


def _records(path: Path) -> Iterator[bytes]:
    try:
        for record in tf.data.TFRecordDataset(os.fsencode(path)):
            yield record.numpy()
    except tf.errors.DataLossError:
        return
