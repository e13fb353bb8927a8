"""Class folders of pictures: train/CLASS/*.png|jpg and test/CLASS/*, 32×32 RGB each."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from cifar_trainer.data.archives import Source, some
from cifar_trainer.data.dataset import CIFAR10_CLASSES, RawDataset
from cifar_trainer.errors import DataError, printable

SUFFIXES = (".png", ".jpg", ".jpeg")
#: A lossless picture of 32×32 has about 2.4 KB; the rest is room for metadata.
MAX_PICTURE_BYTES = 1 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TYPES = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGB with alpha"}


def read_class_folders(
    source: Source, names: dict[str, str], on_images: Callable[[int, int], None]
) -> RawDataset:
    """Read every picture of a source that is laid out in class folders.

    The pictures of a split come in turn from each class, each class in the order of
    its names: the order does not depend on how the archive is packed, and the first
    N pictures hold all classes.

    Args:
        source: where they lie.
        names: the members, by their names without a folder around it all.
        on_images: told how many are read, and of how many.

    Raises:
        DataError: a member is unknown or missing, or a picture is not 32×32 RGB.
    """
    pictures = _by_class(source, names)
    classes = _classes(source, pictures)
    rows: dict[str, tuple[str, int]] = {}
    labels: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        ranked = sorted(
            (rank, label, name)
            for label, class_name in enumerate(classes)
            for rank, name in enumerate(sorted(pictures[split, class_name]))
        )
        labels[split] = np.array([label for _, label, _ in ranked], np.uint8)
        rows.update({names[name]: (split, row) for row, (_, _, name) in enumerate(ranked)})
    images = {split: np.empty((len(labels[split]), 32, 32, 3), np.uint8) for split in labels}
    for done, (name, content) in enumerate(source.read(rows), 1):
        split, row = rows[name]
        images[split][row] = decode(content, f"{source.path}: {printable(name)}")
        if done % 500 == 0 or done == len(rows):
            on_images(done, len(rows))
    # A class's name goes into files and onto screens, which hold text of one line.
    names_shown = tuple(map(printable, classes))
    return RawDataset(names_shown, images["train"], labels["train"], images["test"], labels["test"])


def _by_class(source: Source, names: dict[str, str]) -> dict[tuple[str, str], list[str]]:
    pictures: dict[tuple[str, str], list[str]] = {}
    unknown = []
    for name in names:
        parts = name.split("/")
        if len(parts) == 3 and parts[0] in ("train", "test") and name.lower().endswith(SUFFIXES):
            pictures.setdefault((parts[0], parts[1]), []).append(name)
        else:
            unknown.append(name)
    if unknown:
        raise DataError(
            f"{source.path} holds what is no picture of a class: {some(unknown)}. "
            "Expected train/CLASS/*.png|jpg and test/CLASS/*.png|jpg only; remove the rest."
        )
    large = [name for name in names if source.members[names[name]] > MAX_PICTURE_BYTES]
    if large:
        raise DataError(
            f"{source.path}: {printable(large[0])} has {source.members[names[large[0]]]:,} bytes; "
            f"expected a picture of 32×32, at most {MAX_PICTURE_BYTES:,} bytes."
        )
    return pictures


def _classes(source: Source, pictures: dict[tuple[str, str], list[str]]) -> tuple[str, ...]:
    """The ten names by label: CIFAR-10's order where they are CIFAR-10's, else sorted."""
    found = {name for _, name in pictures}
    if len(found) == 100 and {"apple", "aquarium_fish", "worm"} <= found:
        raise DataError(
            f"{source.path} holds CIFAR-100: a hundred classes. "
            "Expected CIFAR-10, or ten classes of its shape."
        )
    wanted = set(CIFAR10_CLASSES) if found <= set(CIFAR10_CLASSES) else found
    missing = [f"{split}/{name}" for split in ("train", "test") for name in wanted - {
        known for part, known in pictures if part == split
    }]  # fmt: skip
    if missing:
        raise DataError(
            f"{source.path} lacks pictures for {some(missing)}. Expected ten classes, the same ones in "
            "train/ and test/."
        )
    if len(found) != 10:
        raise DataError(f"{source.path} holds {len(found)} classes ({some(found)}), expected ten.")
    return CIFAR10_CLASSES if found == set(CIFAR10_CLASSES) else tuple(sorted(found))


def decode(content: bytes, where: str) -> np.ndarray:
    """Decode a PNG or JPEG of 32×32 RGB with 8 bits a channel; anything else is refused.

    Args:
        content: the file's bytes.
        where: the file, for messages.

    Returns:
        uint8 [32, 32, 3].

    Raises:
        DataError: another format, size or colour type, or a broken file.
    """
    if content.startswith(_PNG):
        _check_png(content, where)
    elif not content.startswith(b"\xff\xd8\xff"):
        raise DataError(f"{where} begins with {content[:8]!r}, expected a PNG or a JPEG.")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (32, 32):
                raise DataError(_size_message(where, *image.size))
            if image.mode != "RGB":
                raise DataError(
                    f"{where} has the colour mode {image.mode}, expected RGB with 8 bits a channel."
                )
            return np.asarray(image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where} is a broken picture: it cannot be read. Expected 32×32 RGB.") from error
    except Exception as error:  # Pillow's decoders raise all sorts at damaged files.
        raise DataError(f"{where} is a broken picture: {error}. Expected 32×32 RGB.") from error


def _check_png(content: bytes, where: str) -> None:
    """Check size and colour type before anything is decoded, and the CRC of each chunk.

    Pillow checks no CRC of the pixel data, and turns 16 bits into 8 without a word.
    """
    position, data = len(_PNG), memoryview(content)
    while True:
        if position + 12 > len(content):
            raise DataError(f"{where} is a broken PNG: it ends after {len(content):,} bytes, without IEND.")
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            raise DataError(
                f"{where} is a broken PNG: expected at least {end:,} bytes, it has {len(content):,}."
            )
        (expected,) = struct.unpack_from(">I", content, end - 4)
        actual = zlib.crc32(data[position + 4 : end - 4])
        if actual != expected:
            raise DataError(
                f"{where} is a broken PNG: the CRC of chunk {kind!r} is {actual:08x}, "
                f"expected {expected:08x}."
            )
        if kind == b"IHDR" and length == 13:
            width, height, depth, colour = struct.unpack_from(">IIBB", content, position + 8)
            if (width, height) != (32, 32):
                raise DataError(_size_message(where, width, height))
            if (depth, colour) != (8, 2):
                raise DataError(
                    f"{where} is {_PNG_TYPES.get(colour, f'colour type {colour}')} "
                    f"with {depth} bits a channel, expected RGB with 8."
                )
        if kind == b"IEND":
            return
        position = end


def _size_message(where: str, width: int, height: int) -> str:
    return f"{where} is {width}×{height} (width × height), expected 32×32."
