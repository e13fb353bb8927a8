"""The fifteen corruptions against their definitions (Hendrycks & Dietterich 2019, CIFAR-10-C's strengths)."""

import colorsys
import hashlib
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cifar_trainer.evaluation import corruptions
from cifar_trainer.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

ALL = [(name, severity) for name in CORRUPTIONS for severity in SEVERITIES]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Smooth pictures with edges and many colours, uint8 [24, 32, 32, 3]."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(20, 236, (24, 4, 4, 3)).astype(np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BICUBIC)) for p in coarse]
    )


def grey(value: int, count: int = 64) -> np.ndarray:
    return np.full((count, 32, 32, 3), value, np.uint8)


def strength(name: str, severity: int) -> tuple[float, ...]:
    return CORRUPTIONS[name].strengths[severity - 1]


def test_the_strengths_are_those_of_the_authors() -> None:
    """The digest is of the literals in their own code, which made CIFAR-10-C.

    That is `ImageNet-C/create_c/make_cifar_c.py` of hendrycks/robustness, commit ca36008, where each
    corruption has a list `c` of five entries. `np.arange(1, x, 0.01)` counts as x and IMSIZE as 1.
    """
    ours = {name: [[float(x) for x in row] for row in CORRUPTIONS[name].strengths] for name in CORRUPTIONS}
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()
    assert digest == "0f439f2f195c3fc9ea1b9661f0c9a3ecc1d46804dcbe66c6fe81cd87a95f7a8d"


def test_there_are_fifteen_in_the_papers_four_families() -> None:
    families = Counter(corruption.family for corruption in CORRUPTIONS.values())
    assert families == {"noise": 3, "blur": 4, "weather": 4, "digital": 4}


@pytest.mark.parametrize("shape", [(28, 28, 1), (30, 40, 3), (300, 256, 3)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_of_any_size_and_of_one_or_three_channels_are_corrupted(
    name: str, shape: tuple[int, int, int]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    corrupted = corrupt(images, name, 5)
    assert (corrupted.shape, corrupted.dtype) == (images.shape, images.dtype)


def test_the_fog_of_a_small_image_is_the_corner_of_a_larger_one() -> None:
    """Clouds come in powers of two: an image of 28 pixels sees a part of those for 32."""
    even = grey(150, 2)
    np.testing.assert_array_equal(corrupt(even[:, :28, :28], "fog", 3), corrupt(even, "fog", 3)[:, :28, :28])


@pytest.mark.parametrize(("name", "severity"), ALL)
def test_the_same_seed_gives_the_same_images_which_are_changed(
    pictures: np.ndarray, name: str, severity: int
) -> None:
    once, again = (corrupt(pictures, name, severity, seed=5) for _ in range(2))
    assert once.dtype == np.uint8
    assert once.shape == pictures.shape
    np.testing.assert_array_equal(once, again)
    assert (once != pictures).mean() > 0.01


@pytest.mark.parametrize(
    "name", [n for n in CORRUPTIONS if n not in ("elastic_transform", "glass_blur", "frost")]
)
def test_the_fifth_severity_is_stronger_than_the_first(pictures: np.ndarray, name: str) -> None:
    weak, strong = (np.abs(corrupt(pictures, name, s).astype(float) - pictures).mean() for s in (1, 5))
    assert strong > 1.3 * weak


@pytest.mark.parametrize(
    ("name", "severity"),
    [(n, s) for n, s in ALL if CORRUPTIONS[n].family == "blur" or n in ("elastic_transform", "pixelate")],
)
def test_what_only_moves_or_mixes_pixels_leaves_an_even_picture_even(name: str, severity: int) -> None:
    changed = corrupt(grey(130, 4), name, severity).astype(int)
    assert np.abs(changed - 130).max() <= 1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_has_the_deviation_of_its_severity(severity: int) -> None:
    noise = corrupt(grey(128), "gaussian_noise", severity).astype(float) - 128
    # Cutting off to whole values takes half a value away on average.
    assert noise.mean() == pytest.approx(-0.5, abs=0.3)
    assert noise.std() / 255 == pytest.approx(strength("gaussian_noise", severity)[0], rel=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_the_variance_of_counted_photons(severity: int) -> None:
    (photons,) = strength("shot_noise", severity)
    noisy = corrupt(grey(102), "shot_noise", severity).astype(float) / 255
    assert noisy.var() == pytest.approx(0.4 / photons, rel=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_makes_its_share_black_or_white(severity: int) -> None:
    noisy = corrupt(grey(128), "impulse_noise", severity)
    (amount,) = strength("impulse_noise", severity)
    assert (noisy == 0).mean() == pytest.approx(amount / 2, rel=0.15)
    assert (noisy == 255).mean() == pytest.approx(amount / 2, rel=0.15)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_of_hsv_and_keeps_hue_and_saturation(
    pictures: np.ndarray, severity: int
) -> None:
    (raised,) = strength("brightness", severity)
    changed = corrupt(pictures[:1], "brightness", severity)[0]
    for row, column in [(0, 0), (7, 21), (30, 4)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(pictures[0, row, column] / 255))
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + raised))
        np.testing.assert_allclose(changed[row, column], np.array(expected) * 255, atol=1.01)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_draws_each_channel_towards_its_mean(pictures: np.ndarray, severity: int) -> None:
    (kept,) = strength("contrast", severity)
    means = pictures.mean(axis=(1, 2), keepdims=True)
    expected = (pictures - means) * kept + means
    np.testing.assert_allclose(corrupt(pictures, "contrast", severity), expected, atol=1.01)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_compression_is_a_jpeg_of_that_quality(pictures: np.ndarray, severity: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pictures[3]).save(buffer, "JPEG", quality=strength("jpeg_compression", severity)[0])
    expected = np.asarray(Image.open(buffer))
    np.testing.assert_array_equal(corrupt(pictures, "jpeg_compression", severity)[3], expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_is_the_dimmed_picture_and_a_share_of_ice(severity: int) -> None:
    kept, _ = strength("frost", severity)
    ice = corrupt(grey(0, 8), "frost", severity).astype(float)
    both = corrupt(grey(100, 8), "frost", severity).astype(float)
    np.testing.assert_allclose(both - ice, kept * 100, atol=1.01)
    assert ice.std() > 3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_adds_a_cloud_from_0_to_1_and_dims_by_as_much(severity: int) -> None:
    """Of an even picture v: (v + amount · cloud) · v / (v + amount), so from v² / (v + amount) to v."""
    amount, value = strength("fog", severity)[0], 150 / 255
    foggy = corrupt(grey(150, 8), "fog", severity)
    assert foggy.max() == pytest.approx(150, abs=1)
    assert foggy.min() == pytest.approx(value**2 / (value + amount) * 255, abs=1)


@pytest.mark.parametrize(("repeat_border", "mode"), [(True, "reflect"), (False, "mirror")])
def test_reading_between_pixels_is_scipys(pictures: np.ndarray, repeat_border: bool, mode: str) -> None:
    """Far outside of the picture too; elastic_transform reads by OpenCV's border first, then by SciPy's."""
    draw = np.random.default_rng(4)
    rows, columns = draw.uniform(-40, 70, (2, 3, 9, 9))
    read = corruptions.sample(pictures[:3] / 255, rows, columns, repeat_border=repeat_border)
    for i in range(3):
        for channel in range(3):
            expected = ndimage.map_coordinates(
                pictures[i, ..., channel] / 255, [rows[i], columns[i]], order=1, mode=mode
            )
            np.testing.assert_allclose(read[i, ..., channel], expected, atol=1e-6)


def test_snow_whitens_a_dark_picture_more_where_it_is_stronger() -> None:
    means = [corrupt(grey(40), "snow", severity).mean() for severity in (1, 3)]
    assert 45 < means[0] < means[1]


def test_defocus_spreads_a_point_evenly_in_all_directions() -> None:
    point = np.zeros((1, 32, 32, 3), np.uint8)
    point[0, 16, 16] = 255
    spread = corrupt(point, "defocus_blur", 5)[0, ..., 0].astype(int)
    assert np.count_nonzero(spread) > 4
    np.testing.assert_allclose(spread, spread.T, atol=1)
    np.testing.assert_allclose(spread[1:, 1:], spread[1:, 1:][::-1, ::-1], atol=1)
