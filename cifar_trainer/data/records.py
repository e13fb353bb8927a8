"""Read records of images: Parquet, Arrow, and TensorFlow Datasets' TFRecord files."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer.data import formats, unpack
from cifar_trainer.data.arrays import IMAGE_WORDS, LABEL_WORDS
from cifar_trainer.data.dataset import ImageSet, OnImages
from cifar_trainer.data.decoding import Decoder, ReadOptions
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.labels import number_labels, split_of_file
from cifar_trainer.errors import DataError

#: An encoded image, its label, and its file name, or an empty one.
Record = tuple[bytes, Any, str]


def read_records(folder: Folder, options: ReadOptions, on_images: OnImages) -> ImageSet | None:
    """Read record files with encoded images and labels; None if the folder has none."""
    files = sorted(folder.of_format(*formats.RECORDS))
    if not files:
        return None
    decoder = Decoder(options)
    classes = _classes_beside(folder)
    for file in files:
        split = split_of_file(file)
        path, where = folder.local(file), folder.describe(file)
        read = _tfrecords if folder.format(file) == "tfrecord" else _rows
        # A table of a few bytes can repeat one image a million times.
        most = max(unpack.MAX_BYTES, unpack.MAX_RATIO * path.stat().st_size)
        most //= math.prod(options.preprocessing.image_shape)
        for number, (content, label, name) in enumerate(read(path, where, classes)):
            if number >= most:
                raise DataError(
                    f"{where} is refused: it contains more than {most:,} images, too many for its size."
                )
            decoder.add(content.__bytes__, lambda: f"{where}, record {number}", split, label, name)  # noqa: B023
            if number % 500 == 499:
                on_images(decoder.read, decoder.read)
    on_images(decoder.read, decoder.read)
    decoder.check()
    if not decoder.read:
        raise DataError(f"{folder.path} has no images: {abridged(files)} contain no records.")
    labels = {split: np.array([label for label, _ in kept]) for split, kept in decoder.kept.items()}
    given = [] if options.spec else classes
    return decoder.finish(*number_labels(labels, given, options.spec, str(folder.path)))


def _classes_beside(folder: Folder) -> list[str]:
    """The class names from TensorFlow Datasets' `label.labels.txt`, one per line."""
    for name in folder.files:
        if name.endswith("label.labels.txt"):
            return folder.read(name).decode("utf-8", "replace").splitlines()
    return []


def _rows(path: Path, where: str, classes: list[str]) -> Iterator[Record]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{where} is a Parquet or Arrow file, which needs the package pyarrow. "
            "Install it with: pip install pyarrow"
        ) from None
    try:
        with open(path, "rb") as file:
            start = file.read(6)
        if start.startswith(b"PAR1"):
            with pyarrow.parquet.ParquetFile(path) as table:
                yield from _batches(table.schema_arrow, table.iter_batches(batch_size=1000), where, classes)
            return
        with pyarrow.memory_map(str(path)) as file:
            # Arrow has separate formats for files and streams.
            if start == b"ARROW1":
                reader = pyarrow.ipc.open_file(file)
                batches = map(reader.get_batch, range(reader.num_record_batches))
            else:
                batches = reader = pyarrow.ipc.open_stream(file)
            yield from _batches(reader.schema, batches, where, classes)
    # pyarrow raises UnicodeDecodeError for the names of columns.
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is damaged, or not a table of images: {error}.") from error


def _batches(schema: Any, batches: Any, where: str, classes: list[str]) -> Iterator[Record]:
    image = next((name for name in schema.names if name.lower() in IMAGE_WORDS), None)
    label = next((name for name in schema.names if name.lower() in LABEL_WORDS), None)
    if image is None or label is None:
        raise DataError(f"{where} has the columns {abridged(schema.names)}; expected an image and a label.")
    if not classes:
        classes += _hugging_face_classes(schema.metadata or {}, label)
    for batch in batches:
        for content, value in zip(
            batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True
        ):
            found = content if isinstance(content, dict) else {"bytes": content}
            if not isinstance(found.get("bytes"), bytes):
                kind = type(found.get("bytes")).__name__
                raise DataError(f"{where}: {image} is a {kind}, expected an image's bytes.")
            if not isinstance(value, int | str):
                raise DataError(f"{where}: {label} is {value!r:.80}, expected a number or a name.")
            yield found["bytes"], value, str(found.get("path") or "")


def _hugging_face_classes(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _tfrecords(path: Path, where: str, classes: list[str]) -> Iterator[Record]:
    from cifar_trainer import devices

    devices.load_tensorflow(verbose=False)
    import tensorflow as tf

    wanted = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    try:
        with tf.device("CPU"):
            # In batches, because calls into TensorFlow take longer than reading a record.
            for records in tf.data.TFRecordDataset(str(path)).batch(1000):
                parsed = tf.io.parse_example(records, wanted)
                labels = parsed["label"].numpy()
                for content, label in zip(parsed["image"].numpy(), labels, strict=True):
                    yield content, int(label), ""
    except tf.errors.OpError as error:
        raise DataError(f"{where} is damaged, or has no image and label: {error.message}.") from error
