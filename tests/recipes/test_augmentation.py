"""The operations of --augment: what they draw, that they match their sources, and that they are exact."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from cifar_trainer.recipes import RECIPES, Batch, Mixed
from cifar_trainer.recipes import augmentation as module
from cifar_trainer.recipes.augmentation import randaugment
from cifar_trainer.recipes.recipe import augmentation
from cifar_trainer.training import stacked  # noqa: F401, registers the random operations

COUNT = 512
ALL = "crop:2,flip,randaugment:1:9,erase:0.25,mixup:0.2,cutmix:1"


def photos(count: int = COUNT, shape: tuple[int, ...] = (12, 10, 3)) -> np.ndarray:
    """Smooth random pictures, each with a range of its own."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (count, 4, 4, shape[-1])).astype(np.uint8)
    return tf.cast(tf.image.resize(coarse, shape[:2]), tf.uint8).numpy()


def batch_of(images: Any, seed: Any = (3, 7)) -> Batch:
    nothing = tf.constant(0)
    labels = tf.range(images.shape[0]) % 10
    return Batch(
        tf.convert_to_tensor(images),
        tf.cast(labels, tf.uint8),
        nothing,
        nothing,
        nothing,
        tf.convert_to_tensor(seed),
    )


def applied(text: str, images: np.ndarray, seed: Any = (3, 7)) -> list[np.ndarray]:
    """The images; and if they are mixed, the other labels and the shares."""
    augment = augmentation(text)
    assert augment is not None
    result = augment(batch_of(images, seed))
    return [np.asarray(each) for each in (result if isinstance(result, Mixed) else [result])]


@pytest.mark.parametrize("text", ["crop:2", "flip", "randaugment:2:9", "erase:0.5", "mixup:0.2", "cutmix:1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_operation_gives_other_images_of_the_same_form_that_follow_from_the_seed(
    text: str, channels: int
) -> None:
    images = photos(32, (12, 10, channels))
    (first, *_), (again, *_), (other, *_) = (applied(text, images, seed) for seed in ((3, 7), (3, 7), (3, 8)))
    assert (first.shape, first.dtype) == (images.shape, np.uint8)
    assert (first == again).all()
    assert (first != images).any()
    assert (first != other).any()


def test_images_are_the_same_to_the_bit_under_xla_and_for_several_seeds_at_once() -> None:
    images, seeds = photos(8), tf.constant([[3, 7], [5, 7]])
    augment = augmentation(ALL)
    assert augment is not None

    def tensors(arguments: Any) -> tuple[tf.Tensor, ...]:
        images, seed = arguments
        return tuple(augment(batch_of(images, seed)))

    both = (tf.constant(np.stack([images, images])), seeds)
    together = tf.function(lambda: tf.vectorized_map(tensors, both, fallback_to_while_loop=False))()
    compiled = tf.function(tensors, jit_compile=True)
    for i, seed in enumerate(seeds):
        alone, xla = tensors((images, seed)), compiled((tf.constant(images), seed))
        for one, part, other in zip(alone, together, xla, strict=True):
            np.testing.assert_array_equal(part[i], one)
            np.testing.assert_array_equal(other, one)


def test_the_recipes_crops_and_flips_are_those_of_the_option() -> None:
    images = photos(8)
    augment = RECIPES["regularized"].augment
    assert augment is not None
    np.testing.assert_array_equal(augment(batch_of(images)), applied("flip+crop:4", images)[0])
    assert augmentation("none") is None


def test_half_of_the_images_are_flipped_and_nothing_else() -> None:
    images = photos()
    (flipped,) = applied("flip", images)
    same, mirrored = ((flipped == each).all(axis=(1, 2, 3)) for each in (images, images[:, :, ::-1]))
    assert (same | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1


def test_a_crop_moves_by_up_to_its_pixels_in_both_directions() -> None:
    (cropped,) = applied("crop:2", np.full((COUNT, 12, 10, 1), 9, np.uint8))
    black = {axis: (cropped == 0).all(axis=(axis, 3)).sum(axis=1) for axis in (1, 2)}
    for lines in black.values():
        assert set(lines) == {0, 1, 2}
        assert abs((lines == 0).mean() - 1 / 5) < 0.08


def test_a_mixup_is_the_weighted_sum_with_the_variance_of_the_papers_distribution() -> None:
    images = photos()
    mixed, others, share = applied("mixup:0.2", images)
    partners = np.minimum(np.abs(np.arange(COUNT) - 1), COUNT - 1)
    np.testing.assert_array_equal(others, partners % 10)
    weight = share[:, None, None, None]
    assert np.abs(mixed - (weight * images + (1 - weight) * images[partners])).max() <= 0.51
    assert abs(share.mean() - 0.5) < 0.08
    assert share.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), rel=0.15)


def test_a_cutmix_is_a_rectangle_of_the_other_image_and_its_share_is_that_of_the_pixels() -> None:
    images = np.tile(np.arange(64, dtype=np.uint8)[:, None, None, None], (1, 12, 10, 1))
    mixed, _, share = applied("cutmix:1", images)
    own = (mixed == images)[..., 0]
    np.testing.assert_allclose(share, own.mean(axis=(1, 2)), atol=1e-6)
    for mask in ~own:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        assert mask.sum() == rows.sum() * columns.sum()
    assert share.min() < 0.4
    assert share.max() > 0.9


def test_of_mixup_and_cutmix_each_image_has_one_in_half_of_the_cases() -> None:
    images = np.tile((200 * (np.arange(COUNT) % 2)).astype(np.uint8)[:, None, None, None], (1, 12, 10, 1))
    mixed, _, share = applied("mixup:1,cutmix:1", images)
    blended = ((mixed > 0) & (mixed < 200)).any(axis=(1, 2, 3))
    assert abs(blended.mean() - 0.5) < 0.1
    own = np.abs(1 - np.abs(mixed.mean(axis=(1, 2, 3)) - images[:, 0, 0, 0]) / 200)
    np.testing.assert_allclose(share, own, atol=0.01)


def test_erasing_fills_one_rectangle_of_the_papers_size_in_a_share_of_the_images() -> None:
    (erased,) = applied("erase:0.25", np.zeros((COUNT, 32, 32, 3), np.uint8))
    masks = [mask for mask in erased.any(axis=3) if mask.any()]
    assert abs(len(masks) / COUNT - 0.25) < 0.06
    heights, widths = (np.array([mask.any(axis=axis).sum() for mask in masks]) for axis in (1, 0))
    areas = heights * widths / 32**2
    assert (areas > 0.015).all()
    assert (areas < 0.43).all()
    assert (heights / widths > 0.2).all()
    assert (heights / widths < 5).all()
    inside = np.concatenate(
        [image[mask].ravel() for image, mask in zip(erased, erased.any(axis=3), strict=True)]
    )
    assert abs(inside.mean() - 127.5) < 3


def enhanced(kind: Callable[[Image.Image], Any], factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: kind(image).enhance(factor)


def moved(*matrix: float) -> Callable[[Image.Image], Image.Image]:
    """An affine map of output to input positions."""
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)
    )


#: Pillow's form of each operation, at magnitude 10 in the positive direction, for images of 32×32 pixels.
PILLOW: dict[str, Callable[[Image.Image], Image.Image]] = {
    "_IDENTITY": lambda image: image,
    "_AUTOCONTRAST": ImageOps.autocontrast,
    "_EQUALIZE": ImageOps.equalize,
    "_SOLARIZE": functools.partial(ImageOps.solarize, threshold=0),
    "_POSTERIZE": functools.partial(ImageOps.posterize, bits=4),
    "_COLOR": enhanced(ImageEnhance.Color, 1.9),
    "_CONTRAST": enhanced(ImageEnhance.Contrast, 1.9),
    "_BRIGHTNESS": enhanced(ImageEnhance.Brightness, 1.9),
    "_SHARPNESS": enhanced(ImageEnhance.Sharpness, 1.9),
    "_ROTATE": lambda image: image.rotate(30, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)),
    "_SHEAR_X": moved(1, 0.3, -0.3 * 16, 0, 1, 0),
    "_SHEAR_Y": moved(1, 0, 0, 0.3, 1, -0.3 * 16),
    "_TRANSLATE_X": moved(1, 0, 15, 0, 1, 0),
    "_TRANSLATE_Y": moved(1, 0, 0, 0, 1, 15),
}


@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_of_randaugment_is_that_of_pillow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within rounding, and at most 3 % of the pixels from the next position."""
    images = photos(8, (32, 32, 3))
    drawn = tf.fill([8, 1], 2 * getattr(module, name) + 1)
    monkeypatch.setattr(module, "_draw", lambda *arguments: drawn)
    found = randaugment(tf.constant(images), tf.constant([0, 0]), 1, 10).numpy().astype(int)
    expected = np.stack([np.asarray(PILLOW[name](Image.fromarray(image))) for image in images]).astype(int)
    differs = (np.abs(found - expected) > 2).any(axis=3)
    assert differs.mean() < 0.03, f"{differs.mean():.1%}"
    if name != "_IDENTITY":
        assert (found != images).any()


def test_each_image_of_a_batch_gets_operations_of_its_own() -> None:
    """The operation that does nothing, 1 of 14, leaves about this share of the images."""
    images = photos()
    (changed,) = applied("randaugment:1:9", images)
    assert 0.03 < (changed == images).all(axis=(1, 2, 3)).mean() < 0.2
