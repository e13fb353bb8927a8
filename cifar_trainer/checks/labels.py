"""Confident learning: which labels are probably wrong (Northcutt, Jiang & Chuang 2021, JAIR 70).

Section and equation numbers refer to that paper, arXiv 1911.00068.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Suspects:
    """Labels that are probably wrong, most suspicious first.

    Attributes:
        index: the images, int64 [S].
        suggested: for each, the most probable other class, int64 [S].
        score: for each, the probability of its given label (self-confidence), float64 [S].
    """

    index: np.ndarray
    suggested: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.index)


def confident_joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The count matrix C, by given label (row) and probable true label (column): int64 [K, K].

    An image is counted in the most probable of the classes whose threshold it reaches, and not at all if it
    reaches none. The threshold of a class is the mean self-confidence of its images (section 3.1, equations 1
    and 2).

    Args:
        probabilities: out-of-sample, float [N, K].
        labels: given labels, integer [N].
    """
    count = probabilities.shape[1]
    confidence = probabilities[np.arange(len(labels)), labels]
    images = np.bincount(labels, minlength=count)
    sums = np.bincount(labels, confidence, minlength=count)
    thresholds = np.where(images > 0, sums / np.maximum(images, 1), np.inf)
    above = np.where(probabilities >= thresholds, probabilities, -1.0)
    confident = above.max(axis=1) >= 0
    matrix = np.zeros((count, count), np.int64)
    np.add.at(matrix, (labels[confident], above.argmax(axis=1)[confident]), 1)
    return matrix


def wrong_by_class(matrix: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Estimated number of wrong labels of each class: int64 [K].

    The off-diagonal sum of each row of the confident joint, calibrated to the class's number of images
    (section 3.1, equation 3).
    """
    images = np.bincount(labels, minlength=len(matrix))
    rows = matrix.sum(axis=1)
    share = 1 - np.diag(matrix) / np.maximum(rows, 1)
    estimated: np.ndarray = np.where(rows > 0, np.rint(share * images), 0).astype(np.int64)
    return estimated


def find_suspects(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """The labels that confident learning prunes by class, ranked by self-confidence.

    Prune by class (section 3.2, method 3): the images of each class with the lowest self-confidence, as many
    as `wrong_by_class` estimates. The estimate is too high if the network confuses similar classes, so a
    label is only suspect if it is also less probable than a random guess, 1 / K.

    Args:
        probabilities: out-of-sample, float [N, K].
        labels: given labels, integer [N].
    """
    count = probabilities.shape[1]
    confidence = probabilities[np.arange(len(labels)), labels]
    wrong = wrong_by_class(confident_joint(probabilities, labels), labels)
    pruned = []
    for label in range(count):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(confidence[members], kind="stable")[: wrong[label]]]
        pruned.append(members[confidence[members] < 1 / count])
    index = np.concatenate(pruned)
    index = index[np.argsort(confidence[index], kind="stable")]
    others = probabilities[index].copy()
    others[np.arange(len(index)), labels[index]] = -1
    return Suspects(index, others.argmax(axis=1), confidence[index])
