"""Where images come from. Needs no TensorFlow."""

from collections import Counter
from pathlib import Path

import pytest
from image_files import encode, noise
from PIL import Image

from cifar_trainer import prediction
from cifar_trainer.images import ImageError

#: How a photograph of a phone begins.
HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(64)


def below(folder: Path) -> tuple[list[str], Counter[str]]:
    passed_over: Counter[str] = Counter()
    found = prediction.images_below(str(folder), passed_over)
    return [Path(path).relative_to(folder).as_posix() for path in found], passed_over


def test_a_folder_gives_the_images_below_it_sorted(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "a.JPG", "sub/c.webp"):
        (tmp_path / name).write_bytes(b"")
    assert below(tmp_path)[0] == ["a.JPG", "b.png", "sub/c.webp"]


def test_an_image_in_a_folder_is_told_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "scan.dat").write_bytes(encode(Image.fromarray(noise()), "TIFF"))
    (tmp_path / "no ending").write_bytes(encode(Image.fromarray(noise()), "PNG"))
    assert below(tmp_path)[0] == ["no ending", "scan.dat"]


def test_what_is_passed_over_in_a_folder_is_counted_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(noise()), "PNG"))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "phone.heic").write_bytes(HEIC)
    (tmp_path / "phone too").write_bytes(HEIC)
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._a.png").write_bytes(b"\0")
    assert below(tmp_path)[1] == {
        "HEIC image": 2,
        "leftover of an operating system or program": 2,
        "file that is not an image": 1,
    }


def test_counts_of_what_was_passed_over_are_told_in_words() -> None:
    counts = {"HEIC image": 2, "file that is not an image": 3, "run's folder": 1}
    expected = "HEIC image (2), file that is not an image (3), run's folder (1)"
    assert prediction.format_counts(counts) == expected


def test_runs_below_a_folder_are_passed_over(trained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(noise()), "PNG"))
    (tmp_path / "run").symlink_to(trained_run)
    assert below(tmp_path) == (["a.png"], {"run's folder": 1})


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(HEIC)
    with pytest.raises(ImageError, match=r"a folder without images\. It contains: HEIC image \(1\)"):
        below(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("https://example.org/ship.png", "That is a URL\\. Download it first: curl"),
        ("photos/*.png", "The shell has not expanded this pattern"),
    ],
)
def test_what_is_no_file_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(ImageError, match=hint):
        prediction.read_file(name)


def test_a_device_is_refused() -> None:
    with pytest.raises(ImageError, match="a device or a socket"):
        prediction.read_file("/dev/zero")


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        prediction.read_file(str(tmp_path / "absent.png"))
    with pytest.raises(ImageError, match="File name too long"):
        prediction.read_file("a" * 300)


def test_an_endless_file_is_read_no_further_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "MAX_BYTES", 1000)
    (tmp_path / "long.png").write_bytes(b"\0" * 1001)
    with pytest.raises(ImageError, match="more than 1,000 bytes"):
        prediction.read_file(str(tmp_path / "long.png"))
