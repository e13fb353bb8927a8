"""Where pictures come from (row 62 of the faults). Needs no TensorFlow."""

from pathlib import Path

import pytest

from cifar_trainer import prediction
from cifar_trainer.images import ImageError


def test_a_folder_gives_the_pictures_below_it_sorted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "sub/c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert prediction.expand_source(str(tmp_path)) == [
        str(tmp_path / name) for name in ("a.JPG", "b.png", "sub/c.webp")
    ]


def test_a_folder_without_pictures_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a folder without pictures"):
        prediction.expand_source(str(tmp_path))


def test_a_device_is_refused() -> None:
    with pytest.raises(ImageError, match="a device or a socket"):
        prediction.read_source("/dev/zero")


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        prediction.read_source(str(tmp_path / "absent.png"))
    with pytest.raises(ImageError, match="File name too long"):
        prediction.read_source("a" * 300)
    assert prediction.expand_source("a" * 300) == ["a" * 300]


def test_an_endless_file_is_read_no_further_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "MAX_BYTES", 1000)
    (tmp_path / "long.png").write_bytes(b"\0" * 1001)
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        prediction.read_source(str(tmp_path / "long.png"))
