"""Significance tests: of two trained models on the same images, and of two recipes over several seeds."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

#: One-sided level of `paired_test`, and its probability of detecting a gain of `minimum_detectable`.
LEVEL, POWER = 0.05, 0.8


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers (McNemar 1947; Dietterich 1998, section 3.1).

    Attributes:
        only_first: number of images that only the first classifies correctly.
        only_second: number of images that only the second classifies correctly.
        statistic: (only_first - only_second)² / (only_first + only_second), chi-square distributed with one
            degree of freedom; 0 if the two never differ.
        p_value: exact and two-sided, by the binomial test of only_first among the images where they differ.
    """

    only_first: int
    only_second: int
    statistic: float
    p_value: float


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> McNemar:
    """Compare two classifiers by the images that each classified correctly, both bool [N]."""
    # Imported here because it is slow, and a usage error need not wait for it.
    from scipy.stats import binomtest

    first = int(np.sum(first_correct & ~second_correct))
    second = int(np.sum(second_correct & ~first_correct))
    differing = first + second
    if differing == 0:
        return McNemar(0, 0, 0.0, 1.0)
    p_value = float(binomtest(first, differing).pvalue)
    return McNemar(first, second, (first - second) ** 2 / differing, p_value)


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two models trained with the same seed, and their results on the images that both held out.

    Attributes:
        indices: int64 [N], positions of these images in the training split.
        first_correct, second_correct: bool [N], whether each model classified each image correctly.
    """

    indices: np.ndarray
    first_correct: np.ndarray
    second_correct: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """1 for an image that only the second model classifies correctly, -1 for the opposite: [N]."""
        return self.second_correct.astype(np.int8) - self.first_correct.astype(np.int8)


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """A paired t-test of two recipes over seeds.

    Attributes:
        differences: accuracy of the second recipe minus that of the first, by seed.
        difference: their mean.
        interval: of the mean, at `confidence`.
        confidence: 1 - 2 * LEVEL / looks.
        p_value: one-sided, times `looks`, at most 1.
        minimum_detectable: the smallest true gain that the test would detect with probability POWER.
        looks: number of comparisons, by which the level is divided.
    """

    differences: tuple[float, ...]
    difference: float
    interval: tuple[float, float]
    confidence: float
    p_value: float
    minimum_detectable: float
    looks: int

    @property
    def is_better(self) -> bool:
        """Whether the second recipe is better: the interval lies above 0."""
        return self.interval[0] > 0


def paired_test(pairs: Sequence[Pair], looks: int = 1) -> PairedTest:
    """Test whether the second recipe's models are more accurate on new images, over all seeds.

    The differences by seed contain the noise of the seeds (initial weights, order of the images) and that of
    the held-out images, because each seed holds out different ones. Pairing removes what both models share:
    how hard the images are. A plain t-test assumes that the differences are independent, but two seeds hold
    out some of the same images. The variance of the mean is therefore s² / n + c (Nadeau & Bengio 2003, lemma
    1), where s² is the variance of the differences, and c the covariance of two of them. Nadeau & Bengio
    assume a bound for c; here it is measured on the shared images. Seeds can agree by accident, so s² is at
    least the variance that the images alone cause. The level is divided by the number of looks (Bonferroni).

    Args:
        pairs: one for each seed, two or more.
        looks: number of comparisons made with these images, including this one.
    """
    # Imported here because it is slow, and a usage error need not wait for it.
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    differences = np.array([pair.gains.mean() for pair in pairs])
    mean, n = float(differences.mean()), len(pairs)
    of_images = float(
        np.mean([max(pair.gains.var(), 1 / len(pair.gains)) / len(pair.gains) for pair in pairs])
    )
    variance = max(float(differences.var(ddof=1)), of_images)
    error = (variance / n + max(_covariance(pairs, mean), 0.0)) ** 0.5
    level = LEVEL / looks
    critical = float(t.isf(level, n - 1))
    with warnings.catch_warnings():
        # The last digits of such large t values do not matter.
        warnings.simplefilter("ignore", RuntimeWarning)
        shift = brentq(lambda shift: nct.sf(critical, n - 1, shift) - POWER, 0, 2 * critical + 10)
    return PairedTest(
        differences=tuple(differences.tolist()),
        difference=mean,
        interval=(mean - critical * error, mean + critical * error),
        confidence=1 - 2 * level,
        p_value=min(1.0, looks * float(t.sf(mean / error, n - 1))),
        minimum_detectable=float(shift * error),
        looks=looks,
    )


def _covariance(pairs: Sequence[Pair], mean: float) -> float:
    """Mean covariance of two seeds' differences, from the images that both held out."""
    gains = [(pair.gains - mean) / len(pair.indices) for pair in pairs]
    by_image = np.bincount(np.concatenate([pair.indices for pair in pairs]), np.concatenate(gains))
    # The sum over all pairs of different seeds, without a matrix of seeds by seeds.
    total = float((by_image**2).sum() - sum((each**2).sum() for each in gains))
    return total / (len(pairs) * (len(pairs) - 1))
