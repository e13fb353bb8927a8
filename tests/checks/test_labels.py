"""Confident learning, against cases that can be computed by hand."""

import numpy as np

from cifar_trainer.checks.labels import confident_joint, find_suspects, wrong_by_class


def test_the_confident_joint_counts_an_image_in_the_most_probable_class_whose_threshold_it_reaches() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.55, 0.45]])
    labels = np.array([0, 0, 0, 1, 1, 1])
    # Thresholds: (0.9 + 0.7 + 0.2) / 3 = 0.6 and (0.6 + 0.9 + 0.45) / 3 = 0.65. Two images reach none.
    assert confident_joint(probabilities, labels).tolist() == [[2, 1], [0, 1]]


def test_the_count_is_calibrated_to_the_images_of_each_class() -> None:
    labels = np.repeat([0, 1], [30, 10])
    # A third of class 0, by the images that are counted; and no image of class 1 is counted.
    assert wrong_by_class(np.array([[4, 2], [0, 0]]), labels).tolist() == [10, 0]


def test_wrong_labels_are_found_and_the_least_probable_come_first() -> None:
    draw = np.random.default_rng(0)
    true = draw.integers(0, 4, 400)
    given = true.copy()
    given[:40] = (true[:40] + 1) % 4
    confidence = draw.uniform(0.7, 0.99, 400)
    probabilities = np.repeat((1 - confidence)[:, None] / 3, 4, axis=1)
    probabilities[np.arange(400), true] = confidence
    suspects = find_suspects(probabilities, given)
    assert len(suspects) >= 30
    assert set(suspects.index.tolist()) <= set(range(40))
    assert (suspects.suggested == true[suspects.index]).all()
    assert (np.diff(suspects.score) >= 0).all()


def test_labels_that_agree_with_the_predictions_and_classes_without_images_are_not_suspect() -> None:
    labels = np.repeat([0, 1], 20)
    probabilities = np.full((40, 3), 0.05)
    probabilities[np.arange(40), labels] = 0.9
    assert len(find_suspects(probabilities, labels)) == 0
