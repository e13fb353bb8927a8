"""Each way in which a server can misbehave, and what the download makes of it."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bad_server import ETAG, BadServer, serve

from cifar_trainer.data import download as downloading
from cifar_trainer.data.dataset import Archive
from cifar_trainer.data.download import MAX_BYTES, Patience, PrepareReporter
from cifar_trainer.data.download import download as download_archive
from cifar_trainer.errors import DataNotFoundError
from cifar_trainer.files import sha256_bytes

CONTENT = bytes(index * index % 251 for index in range(100_000))
KNOWN = Archive("cifar.tar.gz", len(CONTENT), sha256_bytes(CONTENT))
UNKNOWN = Archive("cifar.tar.gz")


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    with serve(CONTENT) as started:
        yield started


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, server: BadServer) -> None:
    server.seen.clear()
    monkeypatch.setattr(downloading, "PATIENCE", Patience(pause=0.01, longest_wait=0.5))


@dataclasses.dataclass
class Fetched:
    path: Path
    notes: list[str]
    progress: list[int]


@pytest.fixture
def get(server: BadServer, tmp_path: Path) -> Callable[..., Fetched]:
    """Download from the behaviours given, one mirror each."""

    def run(*behaviours: str, archive: Archive = KNOWN, part: bytes = b"") -> Fetched:
        urls = [name if name.startswith("http:") else f"{server.url}/{name}" for name in behaviours]
        if part:
            (tmp_path / f"{archive.name}.part").write_bytes(part)
        notes: list[str] = []
        progress: list[int] = []
        reporter = PrepareReporter(
            note=notes.append, on_download=lambda done, total, host: progress.append(done)
        )
        path = download_archive(archive, urls, tmp_path, reporter, "CIFAR_TRAINER_MIRRORS")
        return Fetched(path, notes, progress)

    return run


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


Get = Callable[..., Fetched]


@pytest.mark.parametrize("archive", [KNOWN, UNKNOWN])
@pytest.mark.parametrize("behaviour", ["whole", "no-range", "no-length", "cut-once", "busy-once"])
def test_whole_file_under_its_name(
    get: Get, server: BadServer, tmp_path: Path, behaviour: str, archive: Archive
) -> None:
    fetched = get(behaviour, archive=archive)
    assert fetched.path.read_bytes() == CONTENT
    assert left_behind(tmp_path) == {"cifar.tar.gz"}
    assert fetched.progress[-1] == len(CONTENT)


def test_cut_download_goes_on_by_range(get: Get, server: BadServer) -> None:
    get("cut-once")
    assert server.seen == [("/cut-once", None, None), ("/cut-once", "bytes=50000-", ETAG)]


def test_part_of_an_earlier_process_is_gone_on_with(get: Get, server: BadServer) -> None:
    fetched = get("whole", part=CONTENT[:70_000])
    assert fetched.path.read_bytes() == CONTENT and server.seen == [("/whole", "bytes=70000-", None)]


def test_another_mirror_goes_on_with_the_part(get: Get, server: BadServer) -> None:
    """The same bytes by their SHA-256: it does not matter who gives which half."""
    assert get("cut-always", "whole").path.read_bytes() == CONTENT
    assert server.seen[-1][:2] == ("/whole", "bytes=21-")


def test_without_a_known_hash_only_the_same_version_is_gone_on_with(get: Get, server: BadServer) -> None:
    assert get("whole", archive=UNKNOWN, part=CONTENT[:10]).path.read_bytes() == CONTENT
    assert server.seen == [("/whole", None, None)]
    server.seen.clear()
    assert get("cut-once", archive=UNKNOWN).path.read_bytes() == CONTENT
    assert server.seen == [("/cut-once", None, None), ("/cut-once", "bytes=50000-", ETAG)]


def test_a_later_process_resumes_the_same_version_of_an_unknown_file(get: Get, server: BadServer) -> None:
    for _ in range(2):
        with pytest.raises(DataNotFoundError):
            get("cut-always", archive=UNKNOWN)
    # Three attempts of seven bytes each.
    assert server.seen[3] == ("/cut-always", "bytes=21-", ETAG)
    # Another URL may have another file.
    assert get("whole", archive=UNKNOWN).path.read_bytes() == CONTENT
    assert server.seen[-1] == ("/whole", None, None)


def test_a_file_that_changed_between_two_requests_is_begun_again(get: Get, server: BadServer) -> None:
    assert get("another-version", archive=UNKNOWN).path.read_bytes() == CONTENT
    asked = [where for _, where, _ in server.seen]
    assert asked == [None, "bytes=50000-", None]


@pytest.mark.parametrize("behaviour", ["no-range", "another-range", "unsatisfiable", "says-too-little"])
def test_part_that_does_not_fit_is_begun_again(get: Get, behaviour: str) -> None:
    assert get(behaviour, part=CONTENT[:10]).path.read_bytes() == CONTENT


def test_whole_part_is_checked_without_asking(get: Get, server: BadServer) -> None:
    assert get("whole", part=CONTENT).path.read_bytes() == CONTENT
    assert server.seen == []


def test_wrong_part_of_full_length_is_set_aside(get: Get, tmp_path: Path) -> None:
    assert get("whole", part=bytes(len(CONTENT))).path.read_bytes() == CONTENT
    assert (tmp_path / "cifar.tar.gz.wrong").read_bytes() == bytes(len(CONTENT))


def test_wrong_bytes_name_both_hashes_and_the_next_mirror_is_tried(get: Get, tmp_path: Path) -> None:
    fetched = get("wrong", "whole")
    assert fetched.path.read_bytes() == CONTENT
    wrong = bytes(byte ^ 1 for byte in CONTENT)
    note = next(note for note in fetched.notes if "SHA-256" in note)
    assert sha256_bytes(wrong) in note and str(KNOWN.sha256) in note and "next mirror" in note
    assert left_behind(tmp_path) == {"cifar.tar.gz", "cifar.tar.gz.wrong"}


def test_wrong_part_of_another_mirror_is_not_held_against_the_last_one(get: Get) -> None:
    assert get("whole", part=bytes(70_000)).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("status/404", "answered 404 Not Found"),
        ("status/403", "answered 403 Forbidden"),
        ("status/500", "answered 500 Internal Server Error"),
        ("status/429", "answered 429 Too Many Requests"),
        ("status/503/3600", "asks to wait for 3,600 seconds"),
        ("status/429/Fri, 01 Jan 2100 00:00:00 GMT", "asks to wait for"),
        ("status/503/soon", "answered 503"),
        ("html", "sent an HTML page instead of the archive"),
        ("html-in-disguise", "sent an HTML page instead of the archive"),
        ("wrong", "the SHA-256"),
        ("too-much", "sent more than the expected 100,000 bytes"),
        ("says-terabytes", "the connection was cut"),
        ("cut-always", "the connection was cut after 21 of 100,000 bytes"),
        ("stall", "sent nothing for 0.5 seconds"),
        ("trickle", "is too slow"),
        ("to/ftp://localhost/x", "answered 302"),
        ("to//to/whole", "more than 5 redirects"),
        ("http://localhost:9/", "cannot be reached: Connection refused"),
        ("http://name.invalid/", "cannot be reached"),
    ],
)
def test_mirror_that_fails_is_named_and_the_next_one_tried(
    get: Get, behaviour: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if behaviour in ("stall", "trickle"):
        short = dataclasses.replace(downloading.PATIENCE, seconds=0.5, window=0.3)
        monkeypatch.setattr(downloading, "PATIENCE", short)
    behaviour = behaviour.replace(" ", "%20")
    assert get(behaviour, "whole").path.read_bytes() == CONTENT
    with pytest.raises(DataNotFoundError) as caught:
        get(behaviour)
    assert reason in str(caught.value)
    for way_out in ("--source", "CIFAR_TRAINER_MIRRORS", "--dataset synthetic"):
        assert way_out in str(caught.value)


def test_attempts_are_bounded(get: Get, server: BadServer) -> None:
    with pytest.raises(DataNotFoundError):
        get("status/500")
    assert len(server.seen) == Patience.attempts


def test_slow_last_mirror_is_borne_with(get: Get, server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 bytes a second are too few only where there is another mirror."""
    monkeypatch.setattr(
        downloading, "PATIENCE", dataclasses.replace(downloading.PATIENCE, window=0.1, crawl=0.1)
    )
    with pytest.raises(DataNotFoundError, match="cut after"):
        get("trickle")
    assert len(server.seen) == Patience.attempts


def test_unknown_size_is_capped(get: Get) -> None:
    with pytest.raises(
        DataNotFoundError, match=f"declares 1,099,511,627,776 bytes, expected at most {MAX_BYTES:,}"
    ):
        get("says-terabytes", archive=UNKNOWN)


def test_redirects_are_followed(get: Get) -> None:
    assert get("to//whole").path.read_bytes() == CONTENT


def test_a_damaged_archive_of_an_earlier_download_is_set_aside(tmp_path: Path) -> None:
    """A power cut may leave a file of the right name with other bytes."""
    notes: list[str] = []
    reporter = PrepareReporter(note=notes.append)
    (tmp_path / KNOWN.name).write_bytes(bytes(len(CONTENT)))
    assert downloading.local_archive([KNOWN], tmp_path, reporter) is None
    assert left_behind(tmp_path) == {"cifar.tar.gz.wrong"}
    assert str(KNOWN.sha256) in notes[0] and "set aside" in notes[0]
    (tmp_path / KNOWN.name).write_bytes(CONTENT)
    assert downloading.local_archive([KNOWN], tmp_path, reporter) == tmp_path / KNOWN.name


def test_a_download_is_on_the_disk_before_it_has_its_name(
    get: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[int, bool]] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        flushed.append((os.fstat(descriptor).st_ino, (tmp_path / KNOWN.name).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    path = get("whole").path
    assert (path.stat().st_ino, False) in flushed
