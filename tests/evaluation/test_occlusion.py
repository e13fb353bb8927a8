"""Occlusion on a prediction that is known by hand, and the sanity check of both kinds of maps."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr

from cifar_trainer.artefacts.keras import KerasModel, open_artefact
from cifar_trainer.evaluation.gradcam import GradCam
from cifar_trainer.evaluation.occlusion import GREY, occlude
from cifar_trainer.recipes.tutorial import TUTORIAL


def bright_corner(images: np.ndarray) -> Any:
    """`white` as probable as the corner at the top right is bright, else `black`."""
    white = images[:, :4, -4:].mean(axis=(1, 2, 3)) / 255
    names = tuple(np.where(white > 0.6, "white", "black").tolist())
    return SimpleNamespace(probabilities=np.stack([1 - white, white], axis=1), class_name=names)


@pytest.mark.parametrize("shape", [(16, 16, 3), (48, 32, 1), (224, 160, 3), (12, 16, 1)])
def test_the_part_that_decides_is_found_in_an_image_of_any_size(shape: tuple[int, int, int]) -> None:
    height, width, _ = shape
    seen: list[np.ndarray] = []
    lost = occlude(
        lambda images: (seen.append(images), bright_corner(images))[1], np.full(shape, 255, np.uint8), 1
    )
    assert lost.shape == shape[:2]
    assert lost[0, -1] == lost.max() > 0
    assert lost[-1, 0] == 0
    grey = (seen[0] == GREY).all(axis=-1)
    assert grey.any(axis=0).all() and (grey.sum(axis=(1, 2)) == round(width / 4) * round(height / 4)).all()


def test_the_share_that_is_lost_is_that_of_the_squares_that_cover_the_pixel() -> None:
    lost = occlude(bright_corner, np.full((16, 16, 3), 255, np.uint8), 1)
    # Only the square in the corner covers the pixel, and all that decides.
    np.testing.assert_allclose(lost[0, -1], 1 - GREY / 255)


def test_what_covering_makes_more_probable_is_not_called_lost() -> None:
    assert not occlude(bright_corner, np.full((16, 16, 3), 10, np.uint8), 1).any()


@pytest.fixture(scope="module")
def networks(learned_run: Path) -> list[KerasModel]:
    """A trained network and one with the weights of another initialization."""
    trained = open_artefact(learned_run / "model.keras")
    assert isinstance(trained, KerasModel)
    keras.utils.set_random_seed(1)
    other = TUTORIAL.build_model(trained.image_shape, len(trained.classes))
    return [trained, KerasModel(other, trained.classes, trained.preprocessing)]


def grad_cam(network: KerasModel, images: np.ndarray, labels: list[int]) -> np.ndarray:
    maps = GradCam(network.model)(images, labels)
    assert maps is not None
    return maps


def occlusion(network: KerasModel, images: np.ndarray, labels: list[int]) -> Iterator[np.ndarray]:
    return (occlude(network.predict, image, label) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("explain", [grad_cam, occlusion])
def test_other_weights_give_another_map(
    networks: list[KerasModel], data_dir: Path, explain: Callable[..., Any]
) -> None:
    """The model parameter randomization test of Adebayo et al. 2018, section 3, by rank correlation."""
    images = np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[:16]
    labels = networks[0].predict(images).class_id.tolist()
    maps = [list(explain(network, images, labels)) for network in networks]
    # A map without any heat has no ranks.
    pairs = [pair for pair in zip(*maps, strict=True) if all(np.ptp(each) for each in pair)]
    correlations = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in pairs]
    assert len(pairs) >= 8
    # Equal maps have 1, and independent maps as smooth as these about 0.4.
    assert np.mean(np.abs(correlations)) < 0.6
