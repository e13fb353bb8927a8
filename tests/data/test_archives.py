"""Archives that are damaged or meant to do harm are refused, with one message, and nothing changes."""

import gzip
import io
import resource
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import builders
import pytest
from builders import Refuse, RunCli, tar_member, write_tar, write_zip
from command_line import run_python

from cifar_trainer.data import unpack
from cifar_trainer.errors import DataError

PICTURES = builders.class_folders()


def test_truncated_official_archive_names_both_sizes(tmp_path: Path, refuse: Refuse) -> None:
    whole = write_tar(tmp_path / "whole", {"cifar-10-batches-py/data_batch_1": bytes(range(256)) * 4000})
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[:3000])
    refuse(cut, "truncated", "expected 170,498,071 bytes, but it has 3,000", command=True)


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: write_tar(path, PICTURES, mode="w"), "it has 5,000 bytes"),
        (lambda path: write_tar(path, PICTURES), "it has 5,000 bytes"),
        (lambda path: write_zip(path, PICTURES), "expected at least"),
    ],
    ids=["tar", "tar.gz", "zip"],
)
def test_a_truncated_archive_names_its_size(
    tmp_path: Path, refuse: Refuse, write: Callable[[Path], Path], says: str
) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(write(tmp_path / "whole").read_bytes()[:5000])
    refuse(cut, "truncated", says, "it has 5,000")


def test_tar_that_ends_between_two_members(tmp_path: Path, refuse: Refuse) -> None:
    """tarfile takes the end of the file for the end of the archive; twenty pictures would be missing."""
    whole = write_tar(tmp_path / "whole.tar", PICTURES, mode="w")
    with tarfile.open(whole) as archive:
        end = archive.getmembers()[10].offset
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:end])
    refuse(cut, "truncated", f"after {end:,} bytes")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "train/../../x", "..\\x"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_member_that_leads_out(tmp_path: Path, refuse: Refuse, name: str, write: object) -> None:
    archive = write(tmp_path / "archive", {name: b"x", **PICTURES})  # type: ignore[operator]
    refuse(archive, "is refused", name, "points outside the archive")
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link to /etc/passwd"),
        ({"type": tarfile.LNKTYPE, "linkname": "train/cat/0.png"}, "a link to train/cat/0.png"),
        ({"type": tarfile.FIFOTYPE}, "a FIFO"),
        ({"type": tarfile.CHRTYPE}, "a device"),
        ({"type": tarfile.BLKTYPE}, "a device"),
    ],
)
def test_links_devices_and_fifos_in_a_tar(
    tmp_path: Path, refuse: Refuse, fields: dict[str, object], word: str
) -> None:
    refuse(write_tar(tmp_path / "t", PICTURES, tar_member("train/cat/9.png", **fields)), "is refused", word)


def test_link_in_a_zip(tmp_path: Path, refuse: Refuse) -> None:
    path = write_zip(tmp_path / "archive.zip", PICTURES)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("train/cat/9.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refuse(path, "is refused", "train/cat/9.png is a link")


@pytest.mark.parametrize("odd", ["\x1b[31mred", "x\nCIFAR-10: prepared"])
def test_a_name_cannot_control_the_terminal_or_forge_a_line(tmp_path: Path, refuse: Refuse, odd: str) -> None:
    source = write_zip(tmp_path / "a.zip", {f"train/cat/{odd}.png": b"", **PICTURES})
    assert odd not in refuse(source, f"train/cat/{ascii(odd)[1:-1]}.png", command=True)


def test_a_member_without_a_name(tmp_path: Path, refuse: Refuse) -> None:
    path = write_tar(tmp_path / "a.tar", PICTURES, mode="w")
    content = bytearray(path.read_bytes())
    content[:100] = bytes(100)
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    refuse(path, "is refused", "has no name")


@pytest.mark.parametrize(
    ("method", "place"), [(zipfile.ZIP_LZMA, 60), (zipfile.ZIP_DEFLATED, 6)], ids=["LZMA", "a name"]
)
def test_other_damage_of_a_zip(tmp_path: Path, refuse: Refuse, method: int, place: int) -> None:
    """Data that is not LZMA's; a flag in a local header that says its name is UTF-8, which it is not."""
    path = write_zip(tmp_path / "a.zip", PICTURES, method)
    content = bytearray(path.read_bytes())
    if method == zipfile.ZIP_LZMA:
        content[place : place + 20] = b"\xff" * 20
    else:
        content[place + 1] |= 0x08
        content[30] = 0xFF
    path.write_bytes(content)
    refuse(path, "is damaged")


@pytest.mark.parametrize("write", [write_tar, write_zip])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_doubled_members_are_listed(tmp_path: Path, refuse: Refuse, write: object) -> None:
    path = write(tmp_path / "archive", PICTURES)  # type: ignore[operator]
    if write is write_zip:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("train/cat/0.png", b"another")
    else:
        write_tar(path, PICTURES, tar_member("train/cat/0.png", b"another"))
    refuse(path, "contains train/cat/0.png more than once")


@pytest.mark.parametrize(("packed", "says"), [("tar.gz", "CRC check failed"), ("zip", "CRC-32")])
def test_a_wrong_crc_is_damage(tmp_path: Path, refuse: Refuse, packed: str, says: str) -> None:
    path = tmp_path / f"a.{packed}"
    if packed == "zip":
        write_zip(path, PICTURES, zipfile.ZIP_STORED)
    else:
        write_tar(path, PICTURES)
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 10 if packed == "zip" else -8] ^= 1
    path.write_bytes(content)
    refuse(path, "damaged", says)


def test_gzip_bomb_behind_the_end_stops_at_the_limit(tmp_path: Path, refuse: Refuse) -> None:
    path = write_tar(tmp_path / "a.tar.gz", PICTURES)
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
        for _ in range(100):
            packed.write(bytes(1 << 20))
    path.write_bytes(path.read_bytes() + file.getvalue())
    refuse(path, "more than 67,108,864 bytes follow its end")


# What would fill the memory


def large_member(path: Path) -> None:
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.size = 20 << 30
    path.write_bytes(gzip.compress(info.tobuf() + bytes(1 << 20)))


def large_header(path: Path) -> None:
    """An extended header of 6 GB, which tarfile would read into memory before any name is seen."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 6 << 30
    path.write_bytes(gzip.compress(info.tobuf() + bytes(1 << 20)))


def zip_of_size(path: Path, size: int, declared: int) -> None:
    write_zip(path, {"train/cat/bomb.png": bytes(size), **PICTURES})
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", declared)
    path.write_bytes(content)


def huge_picture(path: Path) -> None:
    content = bytearray(builders.picture(1))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    write_zip(path, {**PICTURES, "train/cat/0.png": bytes(content)})


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a tar's member": (large_member, "declares 21,474,836,480 bytes; expected at most 1,073,741,824"),
    "a tar's header": (large_header, "a header declares"),
    "a zip's member": (lambda path: zip_of_size(path, 1000, 3 << 30), "declares 3,221,225,472 bytes"),
    "more than a zip declares": (lambda path: zip_of_size(path, 80 << 20, 100), "bomb.png is damaged"),
    "a picture": (huge_picture, "train/cat/0.png: it has too many pixels; the limit is"),
}
PREPARE_EACH = """
import sys
from cifar_trainer.data.prepare import prepare
from cifar_trainer.errors import DataError
for path in sys.argv[2:]:
    try:
        prepare("cifar10", sys.argv[1], source=path)
    except DataError as error:
        print(f"{path}: {error}".replace(chr(10), " "))
"""


@pytest.fixture(scope="module")
def bombs_refused(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one process says of them all, with too little address space for what any one unpacks to."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        make(folder / name)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (900 << 20, 900 << 20))

    # OpenBLAS reserves address space for each thread.
    done = run_python(
        ["-c", PREPARE_EACH, folder / "data", *(folder / name for name in BOMBS)],
        preexec_fn=limit, env={"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert builders.snapshot(folder / "data") == {}
    return done.stdout


@pytest.mark.parametrize("name", BOMBS)
def test_a_source_that_would_fill_the_memory_is_refused_before_it_does(name: str, bombs_refused: str) -> None:
    (said,) = (line for line in bombs_refused.splitlines() if f"/{name}: " in line)
    assert BOMBS[name][1] in said


def nested(path: Path, count: int = 3) -> Path:
    """A zip of zips, each of 400 kB of zeros."""
    inner = {}
    for number in range(count):
        zeros = write_zip(path / "inner.zip", {f"{number}/train/cat/{number}.bin": bytes(400_000)})
        inner[f"{number}.zip"] = zeros.read_bytes()
    return write_zip(path / "outer.zip", inner)


@pytest.mark.parametrize(
    ("budget", "value", "says"),
    [
        ("MAX_BYTES", 1_000_000, r"2\.zip is refused: its member .* declares 400,000 bytes"),
        ("MAX_FILES", 5, r"2\.zip is refused: .* and 5 files in all"),
    ],
)
def test_archives_in_an_archive_share_one_budget(
    budget: str, value: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, budget, value)
    with pytest.raises(DataError, match=says):
        builders.read(nested(tmp_path), "mine")


def test_the_room_on_the_disk_is_checked_before_an_archive_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"is full: [\d,]+ bytes are needed, 1,000 are free"):
        builders.read(write_zip(tmp_path / "a.zip", PICTURES))


def test_archives_of_a_folder_are_left_where_they_are(tmp_path: Path) -> None:
    """The archives inside an unpacked archive are deleted once they are unpacked; the user's are not."""
    folder = tmp_path / "folder"
    folder.mkdir()
    inner = write_tar(tmp_path / "inner.tar.gz", PICTURES)
    write_zip(folder / "images.zip", {"inner.tar.gz": inner.read_bytes()})
    assert len(builders.read(folder).splits["train"]) == 20
    assert [path.name for path in folder.iterdir()] == ["images.zip"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "it is empty"), (b"<!DOCTYPE html><html>", "HTML page"), (b"GIF89a..", "starts with b'GIF89a..'")],
)
def test_what_is_no_archive(tmp_path: Path, refuse: Refuse, content: bytes, says: str) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(content)
    refuse(path, says, "Expected a folder, a .zip, a .tar")


def test_the_oldest_kind_of_tar_is_read(tmp_path: Path, run_cli: RunCli) -> None:
    """Version 7's: its headers bear a checksum and no other sign."""
    path = write_tar(tmp_path / "a.tar", PICTURES, mode="w")
    content = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        offsets = [member.offset for member in archive]
    for at in offsets:
        content[at + 257 : at + 512] = bytes(255)
        content[at + 148 : at + 156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    path.write_bytes(content)
    done = run_cli(["prepare", "--source", path, "--data-dir", tmp_path / "data"])
    assert done.returncode == 0, done.stderr


def test_source_that_is_not_there(tmp_path: Path, refuse: Refuse) -> None:
    refuse(tmp_path / "nothing", "nothing does not exist", "--source")
