"""Images in files of arrays or records: .npz, .npy, .mat, .parquet, .arrow and TensorFlow's .tfrecord."""

import json
import math
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer.data.dataset import OnImages
from cifar_trainer.data.parts import MAX_CLASSES, Decoder, ImageStack, Parts, ReadOptions
from cifar_trainer.data.sources import MAX_TOTAL_BYTES, Source, abridged, total_limit
from cifar_trainer.errors import DataError

_PARTS = (("validation", ("validation", "valid", "val")), ("train", ("train",)), ("test", ("test",)))
_IMAGES = ("images", "image", "x", "data", "imgs", "img")
_LABELS = ("labels", "label", "y", "targets", "target", "fine_labels", "fine_label")
_NAMES = ("classes", "class_names", "label_names")
#: A part, an encoded image, its label, and what to call the record in messages.
Record = tuple[str, bytes, Any, str]


def is_array(name: str) -> bool:
    """Whether a member holds arrays of NumPy or of MATLAB."""
    return name.lower().endswith((".npy", ".mat"))


def is_record_file(name: str) -> bool:
    """Whether a member is a Parquet, Arrow or TFRecord file."""
    return name.lower().endswith((".parquet", ".arrow")) or ".tfrecord" in name.lower()


# Arrays


def read_arrays(source: Source, names: list[str], options: ReadOptions, on_images: OnImages) -> Parts:
    """Read arrays of images and of labels, such as x_train, y_train, x_test and y_test.

    Args:
        source: where they lie.
        names: the .npy or .mat members.
        options: their classes and shape.
        on_images: told how many are read, and of how many.

    Raises:
        DataError: there are no such arrays, or they do not fit together.
    """
    arrays: dict[tuple[str, str], np.ndarray] = {}
    for name in names:
        with source.on_disk(name) as path:
            for key, array in _load(path, name, source.describe(name)):
                role = _role(key)
                if role is not None:
                    arrays[role] = np.array(array)
    splits = sorted({split for split, kind in arrays if kind == "images" and (split, "labels") in arrays})
    if not splits:
        found = abridged(f"{split} {kind}" for split, kind in arrays) or abridged(names)
        raise DataError(
            f"{source.path} holds no arrays of images with labels: it holds {found}. Expected x_train, "
            "y_train, x_test and y_test; or images and labels."
        )
    named = arrays.get(("all", "names"))
    images, labels, given = {}, {}, [] if named is None else [_text(name) for name in named.ravel()]
    counts: Counter[str] = Counter()
    for split in splits:
        where = f"{source.path}: the {split} images" if split != "all" else f"{source.path}: the images"
        images[split] = _as_images(arrays.pop((split, "images")), options, where, counts)
        raw = arrays.pop((split, "labels"))
        if len(raw) != len(images[split]):
            raise DataError(f"{where} are {len(images[split]):,}, and their labels {len(raw):,}.")
        labels[split] = raw
        on_images(len(images[split]), len(images[split]))
    classes, numbers = _numbered(labels, given, options, str(source.path))
    notes = [f"{counts['fractions']:,} images of fractions were scaled to 0..255."] if counts else []
    return Parts(classes, images, numbers, notes=tuple(notes))


def _load(path: Path, name: str, where: str) -> Iterator[tuple[str, np.ndarray]]:
    if name.lower().endswith(".npy"):
        yield Path(name).stem, _load_npy(path, where)
        return
    yield from load_mat(path, where, _wanted_in_mat).items()


def _load_npy(path: Path, where: str) -> np.ndarray:
    try:
        # Mapped first: a header that declares more than the file holds is refused before it is allocated.
        # Not by np.load, which would take a file that begins as a zip does for an .npz.
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise DataError(f"{where} is no array: {error}.") from error
    return array


def _wanted_in_mat(name: str) -> bool:
    return _role(name) is not None or name in ("X", "y")


def load_mat(path: Path, where: str, wanted: Any = lambda name: True) -> dict[str, np.ndarray]:
    """The plain arrays of a MATLAB file (version 5 to 7) whose names are `wanted`.

    Raises:
        DataError: it is another kind of file, damaged, or declares more than any data set has.
    """
    import scipy.io

    try:
        listed = scipy.io.whosmat(path)
        plain = {"uint8", "uint16", "uint32", "int32", "int64", "double", "single", "cell", "char"}
        kept = [name for name, shape, kind in listed if wanted(name) and kind in plain]
        declared = sum(int(np.prod(shape, dtype=object)) for name, shape, _ in listed if name in kept)
        if declared > MAX_TOTAL_BYTES:
            raise DataError(f"{where} declares {declared:,} values, expected at most {MAX_TOTAL_BYTES:,}.")
        loaded = scipy.io.loadmat(path, variable_names=kept)
    except DataError:
        raise
    except NotImplementedError:
        raise DataError(
            f"{where} is a MATLAB file of version 7.3, which is not read. Save it in MATLAB with "
            "save(FILE, '-v7')."
        ) from None
    except Exception as error:  # scipy's reader raises all sorts at damaged files.
        raise DataError(f"{where} is no MATLAB file, or damaged: {error}.") from error
    return {name: value for name, value in loaded.items() if name in kept}


def _role(key: str) -> tuple[str, str] | None:
    """The part and the kind (`images`, `labels`, `names`) of an array, by its name."""
    words = [
        word for word in re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower()) if word
    ]
    split = "all"
    for name, words_of in _PARTS:
        if set(words) & set(words_of):
            split = name
    if key.lower() in _NAMES:
        return "all", "names"
    if set(words) & set(_LABELS):
        return split, "labels"
    return (split, "images") if set(words) & set(_IMAGES) else None


def _as_images(array: np.ndarray, options: ReadOptions, where: str, counts: Counter[str]) -> np.ndarray:
    """Any common form of an array of images as uint8 [N, H, W, C]."""
    height, width, channels = options.shape
    count = len(array) if array.ndim else 0
    if array.ndim == 2 and array.shape[1] == height * width * channels:
        # As the official CIFAR archives have them: channel by channel.
        array = array.reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    elif array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or count == 0:
        raise DataError(
            f"{where} are {array.dtype} {array.shape}, expected N×{height}×{width}×{channels} or "
            f"N×{height * width * channels:,}."
        )
    if array.dtype != np.uint8:
        array = _scaled(array, where, counts)
    if options.classes and array.shape[1:] != options.shape:
        raise DataError(
            f"{where} are {'×'.join(map(str, array.shape[1:]))}, expected "
            f"{'×'.join(map(str, options.shape))} for {options.title}. Choose another --dataset."
        )
    return np.ascontiguousarray(array)


def _scaled(array: np.ndarray, where: str, counts: Counter[str]) -> np.ndarray:
    values = np.asarray(array, np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):
        raise DataError(f"{where} have values from {low:g} to {high:g}, expected 0 to 255, or 0 to 1.")
    if np.issubdtype(array.dtype, np.floating):
        counts["fractions"] += len(array)
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


def _numbered(
    labels: Mapping[str, np.ndarray], given: list[str], options: ReadOptions, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The classes, and the labels as whole numbers from 0 up, int64 [N]."""
    flat = {}
    for split, raw in labels.items():
        # One number an image, or a row of zeros with a one.
        values = raw.argmax(1) if raw.ndim == 2 and raw.shape[1] > 1 else raw.reshape(-1)
        flat[split] = values
    if any(values.dtype.kind in "USO" for values in flat.values()):
        names = sorted({_text(name) for values in flat.values() for name in values})
        from cifar_trainer.data.class_folders import class_names

        index, classes = class_names(set(names), options)
        return classes, {
            k: np.array([index[_text(v)] for v in values], np.int64) for k, values in flat.items()
        }
    numbers = {}
    for split, values in flat.items():
        whole = values.astype(np.int64)
        if values.dtype.kind == "f" and not np.array_equal(whole, values):
            raise DataError(f"{where}: the {split} labels are fractions, expected whole numbers.")
        numbers[split] = whole
    low = min(int(values.min()) for values in numbers.values())
    high = max(int(values.max()) for values in numbers.values())
    # No more than there may be: one label may be any number.
    found = (str(label) for label in range(min(high + 1, MAX_CLASSES)))
    classes = tuple(given) or options.classes or tuple(found)
    if low == 1 and high == len(classes):
        # MATLAB counts from 1.
        numbers, low, high = {split: values - 1 for split, values in numbers.items()}, 0, high - 1
    if low < 0 or high >= len(classes):
        raise DataError(f"{where}: the labels are {low} to {high}, expected 0 to {len(classes) - 1}.")
    return classes, numbers


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value.item() if isinstance(value, np.ndarray) and value.size == 1 else value)


# Records


def read_records(source: Source, names: list[str], options: ReadOptions, on_images: OnImages) -> Parts:
    """Read Parquet, Arrow or TFRecord files whose records have an encoded image and a label.

    Args:
        source: where they lie.
        names: the members.
        options: how to decode the images.
        on_images: told how many are read, and of how many.

    Raises:
        DataError: they are damaged, lack an image or a label, or an image cannot be read.
    """
    decoder = Decoder(options)
    found: dict[str, tuple[ImageStack, list[Any]]] = {}
    classes: list[str] = _classes_beside(source)
    read = 0
    for name in sorted(names):
        split = _split_of(name)
        images, labels = found.setdefault(split, (ImageStack(options.shape), []))
        with source.on_disk(name) as path:
            records = _tfrecords if ".tfrecord" in name.lower() else _rows
            # A table names an image a million times in a few bytes.
            before, most = read, total_limit(path) // math.prod(options.shape)
            for content, label in records(path, source.describe(name), classes):
                if read - before >= most:
                    raise DataError(
                        f"{source.describe(name)} is refused: it holds more than {most:,} images, far more "
                        "than its bytes explain."
                    )
                image = decoder.decode(content, f"{source.describe(name)}, record {len(images)}")
                read += 1
                if image is not None:
                    images.append(image)
                    labels.append(label)
                if read % 500 == 0:
                    on_images(read, read)
    on_images(read, read)
    decoder.check()
    if not any(labels for _, labels in found.values()):
        raise DataError(f"{source.path} holds no images: {abridged(names)} have no records.")
    grey = not options.classes and decoder.all_grey
    names_, numbers = _numbered(
        {split: np.array(labels) for split, (_, labels) in found.items() if labels},
        classes if not options.classes else [],
        options,
        str(source.path),
    )
    return Parts(
        names_,
        {split: images.to_array(grey=grey) for split, (images, labels) in found.items() if labels},
        numbers,
        decoder.conversions(kept_grey=grey),
        decoder.notes(kept_grey=grey),
    )


def _split_of(name: str) -> str:
    words = re.split(r"[^a-z]+", name.rsplit("/", 1)[-1].lower())
    return next((part for part, names in _PARTS if set(names) & set(words)), "all")


def _classes_beside(source: Source) -> list[str]:
    """The names that TensorFlow Datasets writes into `label.labels.txt`."""
    listed = [name for name in source.members if name.endswith("label.labels.txt")]
    for _, content in source.read(listed[:1]):
        return content.decode("utf-8", "replace").split()
    return []


def _rows(path: Path, where: str, classes: list[str]) -> Iterator[tuple[bytes, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{where} is a Parquet or Arrow file, for which the package pyarrow is missing. "
            "Install it with: pip install pyarrow"
        ) from None
    try:
        if path.suffix == ".arrow":
            with pyarrow.memory_map(str(path)) as file:
                reader = pyarrow.ipc.open_stream(file)
                yield from _batches(reader.schema, reader, where, classes)
        else:
            with pyarrow.parquet.ParquetFile(path) as table:
                batches = table.iter_batches(batch_size=1000)
                yield from _batches(table.schema_arrow, batches, where, classes)
    # UnicodeDecodeError: pyarrow decodes the columns' names by itself.
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is damaged, or no table of images: {error}.") from error


def _batches(schema: Any, batches: Any, where: str, classes: list[str]) -> Iterator[tuple[bytes, Any]]:
    image = next((name for name in schema.names if name.lower() in _IMAGES), None)
    label = next((name for name in schema.names if name.lower() in _LABELS), None)
    if image is None or label is None:
        raise DataError(f"{where} has the columns {abridged(schema.names)}; expected an image and a label.")
    if not classes:
        classes += _hugging_face_classes(schema.metadata or {}, label)
    for batch in batches:
        for content, value in zip(
            batch.column(image).to_pylist(), batch.column(label).to_pylist(), strict=True
        ):
            found = content.get("bytes") if isinstance(content, dict) else content
            if not isinstance(found, bytes):
                raise DataError(f"{where}: {image} is a {type(found).__name__}, expected an image's bytes.")
            if not isinstance(value, int | str):
                raise DataError(f"{where}: {label} is {value!r:.80}, expected a number or a name.")
            yield found, value


def _hugging_face_classes(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, ValueError, TypeError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _tfrecords(path: Path, where: str, classes: list[str]) -> Iterator[tuple[bytes, Any]]:
    from cifar_trainer import devices

    devices.load_tensorflow(verbose=False)
    import tensorflow as tf

    wanted = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
    try:
        with tf.device("CPU"):
            # Record by record, TensorFlow takes longer to be called than to read.
            for records in tf.data.TFRecordDataset(str(path)).batch(1000):
                parsed = tf.io.parse_example(records, wanted)
                yield from zip(parsed["image"].numpy(), map(int, parsed["label"].numpy()), strict=True)
    except tf.errors.OpError as error:
        raise DataError(f"{where} is damaged, or has no image and label: {error.message}.") from error
