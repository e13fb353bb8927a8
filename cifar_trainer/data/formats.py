"""Recognize file formats by their first bytes."""

import struct
import tarfile

from cifar_trainer.images import is_image, name_unread_format

#: Formats by their signatures.
_SIGNATURES = (
    (b"PK", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstandard"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    # Arrow's stream: a continuation marker, then the length of the schema.
    (b"\xff\xff\xff\xff", "arrow"),
    (b"\x93NUMPY", "npy"),
    (b"MATLAB 5.0", "mat"),
    (b"MATLAB 7.3", "hdf5"),
    (b"\x89HDF", "hdf5"),
    (b"\0\0\x08\x01", "idx"),
    (b"\0\0\x08\x03", "idx"),
)
COMPRESSED = ("gzip", "bzip2", "xz", "zstandard")
ARCHIVES = ("zip", "7z", "tar", *COMPRESSED)
RECORDS = ("parquet", "arrow", "tfrecord")
ARRAYS = ("npy", "mat", "hdf5", "idx")
#: How many bytes at the start of a file identify its format.
HEAD_BYTES = 512


def format_of(head: bytes) -> str:
    """The format of a file by its first HEAD_BYTES; empty if it is unknown."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if is_image(head) or name_unread_format(head) is not None:
        return "image"
    if is_tar(head):
        return "tar"
    if _is_tfrecord(head):
        return "tfrecord"
    return "html" if is_html(head) else ""


def is_tar(head: bytes) -> bool:
    """Whether a file starts with a tar header. The oldest tars have no signature, only a checksum."""
    try:
        return bool(tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return head[257:262] == b"ustar"


def is_html(head: bytes) -> bool:
    """Whether a file starts like a web page."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<!--", b"<?xml"))


def _is_tfrecord(head: bytes) -> bool:
    """Whether the length of the first record is followed by its checksum, a masked CRC-32C."""
    if len(head) < 12:
        return False
    crc = 0xFFFFFFFF
    for byte in head[:8]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 & -(crc & 1))
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.unpack("<I", head[8:12]) == (masked,)


def describe(head: bytes) -> str:
    """How a file starts, for messages."""
    if not head:
        return "it is empty"
    return "it is an HTML page" if is_html(head) else f"it starts with {head[:8]!r}"
