"""Near-duplicates: altered copies are found, other images are not, whatever the altered copy's kind."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from cifar_trainer.checks import neighbours

COUNT = 30


def jpeg(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=40)
    return Image.open(content)


#: How a copy may differ from its original.
ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "re-encoded": jpeg,
    "mirrored": ImageOps.mirror,
    "cropped": lambda image: image.crop((3, 1, 31, 29)).resize((32, 32), Image.Resampling.BILINEAR),
    "mirrored and cropped": lambda image: ALTERED["cropped"](ImageOps.mirror(image)),
    "resized": lambda image: image.resize((20, 20)).resize((32, 32)),
    "brighter": lambda image: image.point(lambda value: min(value + 50, 255)),
    "greyscale": lambda image: image.convert("L").convert("RGB"),
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Different pictures with large and small structures, uint8 [COUNT, 32, 32, 3]."""
    draw = np.random.default_rng(0)
    pictures = []
    for _ in range(COUNT):
        tint = draw.integers(0, 40, (1, 1, 3), np.uint8)
        drawn = [tint + draw.integers(0, 160, (size, size, 1), np.uint8) for size in (3, 6, 12)]
        noise = [Image.fromarray(each) for each in drawn]
        layers = [each.resize((32, 32), Image.Resampling.BICUBIC) for each in noise]
        pictures.append(np.mean([np.asarray(layer, float) for layer in layers], axis=0).astype(np.uint8))
    return np.stack(pictures)


def test_altered_copies_of_every_kind_are_found_and_nothing_else(images: np.ndarray) -> None:
    altered = [alter(Image.fromarray(image)) for image, alter in zip(images, ALTERED.values(), strict=False)]
    copies = [np.asarray(image.convert("RGB")) for image in altered]
    every = np.concatenate([images, np.stack(copies)])
    pairs = neighbours.find_pairs(every, np.zeros((len(every), 4), np.float32))
    found = dict(zip(pairs.second.tolist(), pairs.first.tolist(), strict=True))
    assert found == {COUNT + i: i for i in range(len(ALTERED))}
    assert (np.diff(pairs.similarity) <= 0).all()


def test_features_find_copies_that_pixels_do_not(images: np.ndarray) -> None:
    """The left and the right half of a picture are moved together by a crop that no enlarged view shows."""
    small = images[0][:24, :24]
    copy = np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BILINEAR))
    every = np.concatenate([images, copy[None]])
    features = np.random.default_rng(0).normal(size=(len(every), 16)).astype(np.float32)
    features[-1] = features[0]
    pairs = neighbours.find_pairs(every, features)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [COUNT])


def test_pictures_of_one_colour_resemble_nothing() -> None:
    plain = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 28 * 28).reshape(-1, 28, 28, 1)
    assert len(neighbours.find_pairs(plain, np.zeros((len(plain), 4), np.float32))) == 0


def test_the_search_finds_the_nearest_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "FLOOR", -2.0)
    monkeypatch.setattr(neighbours, "_BLOCK", 64)
    keys = neighbours.unit(np.random.default_rng(0).normal(size=(300, 6, 1)))
    queries = np.roll(keys, 1, axis=1)
    similar = queries @ keys.T
    expected = set()
    for row in range(300):
        similar[row, row] = -np.inf
        nearest = np.argsort(-similar[row])[: neighbours.NEIGHBOURS].tolist()
        expected |= {(min(row, i), max(row, i)) for i in nearest}
    assert set(map(tuple, neighbours.search(queries, neighbours.Cells.of(keys)).tolist())) == expected


def test_pairs_that_share_an_image_are_one_group() -> None:
    pairs = neighbours.Pairs(np.array([4, 1, 1]), np.array([5, 3, 7]), np.array([1, 0.9, 0.88], np.float32))
    groups = [(members.tolist(), round(similarity, 2)) for members, similarity in neighbours.group(pairs, 9)]
    assert groups == [([4, 5], 1.0), ([1, 3, 7], 0.9)]
