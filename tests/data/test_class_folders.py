"""Class folders of pictures: read whatever they are packed in, and refused when something is amiss."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import Refuse, RunCli, picture, write_folder, write_tar, write_zip
from PIL import Image

from cifar_trainer.data.cifar10 import CLASSES as CIFAR10_CLASSES
from cifar_trainer.data.dataset import ImageSet
from cifar_trainer.errors import DataError

PICTURES = builders.class_folders()


def read(path: Path) -> ImageSet:
    return builders.read(path)


def test_folder_zip_and_tar_give_the_same_arrays(tmp_path: Path) -> None:
    """The order does not depend on the packing: here the tar holds the members backwards, in a folder."""
    backwards = builders.under("./cifar", dict(reversed(PICTURES.items())))
    sources = [
        write_folder(tmp_path / "folder", PICTURES),
        write_zip(tmp_path / "named.dat", PICTURES),
        write_tar(tmp_path / "a.tar", backwards, mode="w"),
        write_tar(tmp_path / "a.zip", backwards),
    ]
    first, *others = [read(source) for source in sources]
    assert {name: len(split) for name, split in first.splits.items()} == {"train": 20, "test": 10}
    assert first.image_shape == (32, 32, 3)
    assert first.classes == CIFAR10_CLASSES
    for other in others:
        for name, split in first.splits.items():
            np.testing.assert_array_equal(split.images, other.splits[name].images)
            np.testing.assert_array_equal(split.labels, other.splits[name].labels)


def test_first_images_hold_every_class(tmp_path: Path) -> None:
    raw = read(write_zip(tmp_path / "a.zip", PICTURES))
    assert raw.splits["train"].labels.tolist() == [*range(10), *range(10)]
    expected = np.asarray(Image.open(io.BytesIO(PICTURES["train/cat/0.png"])))
    np.testing.assert_array_equal(raw.splits["train"].images[3], expected)


def test_other_classes_are_sorted_and_are_not_cifar10(run_cli: RunCli, tmp_path: Path) -> None:
    names = tuple(f"letter-{letter}" for letter in "jihgfedcba")
    source = write_zip(tmp_path / "letters.zip", builders.class_folders(classes=names))
    assert read(source).classes == tuple(sorted(names))
    done = run_cli(["prepare", "--source", source, "--data-dir", tmp_path / "data"])
    assert done.returncode == 0, done.stderr
    assert "not CIFAR-10" in done.stdout


def test_names_of_classes_become_text_of_one_line(tmp_path: Path) -> None:
    """A folder's name may be no UTF-8, or hold a line end; files and screens cannot."""
    odd = {"cat": "sea lion", "dog": "caf\udce9", "frog": "two\nlines"}
    folder = write_folder(
        tmp_path / "folder",
        {"/".join(odd.get(part, part) for part in name.split("/")): c for name, c in PICTURES.items()},
    )
    classes = read(folder).classes
    assert {"sea lion", "caf\\udce9", "two\\nlines"} <= set(classes)
    assert all(name.isprintable() for name in classes)


def test_folder_that_holds_a_fifo(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    import os

    write_folder(tmp_path / "folder", PICTURES)
    os.mkfifo(tmp_path / "folder/train/cat/9.png")
    with pytest.raises(DataError, match=r"9\.png is a FIFO, expected a file"):
        read(tmp_path / "folder")


def test_folder_that_loops_through_a_link(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", PICTURES)
    (tmp_path / "folder/train/again").symlink_to(tmp_path / "folder")
    with pytest.raises(DataError, match="is a link to a folder that contains it"):
        read(tmp_path / "folder")


def png_of_16_bits() -> bytes:
    """32×32 RGB with 16 bits a channel, which Pillow would turn into 8 without a word."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = zlib.compress((b"\0" + bytes(32 * 6)) * 32)
    header = struct.pack(">IIBBBBB", 32, 32, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (picture(1)[:-20], "it is a PNG that cannot be decoded"),
        (flipped(picture(1), 60), "it is a PNG that cannot be decoded"),
        (picture(1)[:33], "it starts as a PNG, but is truncated or damaged"),
        (picture(1, kind="JPEG")[:300], "it starts as a JPEG, but is truncated or damaged"),
        (b"", "it is empty"),
        (b"<html></html>", "it is not an image"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    source = write_zip(tmp_path / "a.zip", {**PICTURES, "train/cat/0.png": content})
    with pytest.raises(DataError, match=rf"(?s)train/cat/0\.png: {says}.*--skip-unreadable"):
        read(source)


@pytest.mark.parametrize(
    ("content", "conversion"),
    [
        (picture(1, size=(31, 32)), "resized"),
        (picture(1, size=(32, 33), kind="JPEG"), "resized"),
        (picture(1, mode="L"), "greyscale"),
        (picture(1, mode="L", kind="JPEG"), "greyscale"),
        (picture(1, mode="CMYK", kind="JPEG"), "cmyk"),
        (picture(1, mode="RGBA"), "transparent"),
        (picture(1, mode="P"), "palette"),
        (picture(1, mode="P", kind="GIF"), "palette"),
        (png_of_16_bits(), "sixteen_bits"),
    ],
)
def test_each_conversion_is_counted(tmp_path: Path, content: bytes, conversion: str) -> None:
    raw = read(write_zip(tmp_path / "a.zip", {**PICTURES, "train/cat/0.png": content}))
    assert raw.conversions == {conversion: 1}


@pytest.mark.parametrize("kind", ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"])
def test_each_format_is_read(tmp_path: Path, kind: str) -> None:
    suffix = f".{kind.lower()}"
    images = {name.replace(".png", suffix.upper()): picture(5, kind=kind) for name in PICTURES}
    assert len(read(write_zip(tmp_path / "a.zip", images)).splits["train"]) == 20


def test_bad_images_are_listed_eight_and_a_count(tmp_path: Path) -> None:
    bad = {name: b"" for name in PICTURES if name.startswith("train/")}
    with pytest.raises(DataError) as caught:
        read(write_zip(tmp_path / "a.zip", {**PICTURES, **bad}))
    message = str(caught.value)
    assert "20 images cannot be read" in message
    assert message.count("it is empty") == 8
    assert "and 12 more" in message


def test_bad_images_are_left_out_if_asked_for(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", {**PICTURES, "train/cat/0.png": b""})
    raw = builders.read(source, skip_unreadable=True)
    assert len(raw.splits["train"].labels) == 19
    assert any("train/cat/0.png" in note for note in raw.notes)


def test_empty_source(tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "empty").mkdir()
    refuse(tmp_path / "empty", "empty is empty", "train/CLASS")


def without(prefix: str) -> builders.Members:
    return {name: content for name, content in PICTURES.items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (without("train/cat/"), "lacks images for train/cat."),
        (without("test/"), "has no test set. Add --test-fraction"),
        ({name: c for name, c in PICTURES.items() if "/ship/" not in name}, "lacks images for train/ship"),
        (
            {**PICTURES, "train/zebra/0.png": picture(1)},
            "contains 11 classes, expected the 10 of CIFAR-10. Not among them: zebra.",
        ),
        ({**PICTURES, "train/0.png": picture(1)}, "has 1 image outside the class folders (train/0.png)"),
        (builders.class_folders(1, 1, tuple("abcdefghi")), "contains 9 classes"),
    ],
)
def test_missing_or_unknown_members_are_listed(
    tmp_path: Path, refuse: Refuse, members: builders.Members, says: str
) -> None:
    refuse(write_zip(tmp_path / "a.zip", members), says)


def test_archive_that_tarfile_wrote_with_long_names(tmp_path: Path) -> None:
    """Extended headers are no members, and no harm."""
    long = {name.replace(".png", "x" * 150 + ".png"): content for name, content in PICTURES.items()}
    for format_ in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{format_}.tar"
        with tarfile.open(path, "w", format=format_) as archive:
            for name, content in long.items():
                archive.addfile(builders.tar_member(name, content)[0], io.BytesIO(content))
        assert len(read(path).splits["train"]) == 20
