"""Whether two models differ by more than chance, on the same images."""

import dataclasses

import numpy as np
from scipy.stats import binomtest


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of two classifiers (McNemar 1947; Dietterich 1998, section 3.1).

    Attributes:
        only_first: images that only the first classifies rightly.
        only_second: images that only the second does.
        statistic: (only_first - only_second)² / (only_first + only_second), to be held
            against chi-square with one degree of freedom; 0 where they never differ.
        p_value: exact and two-sided: that of only_first among their sum in a fair toss.
    """

    only_first: int
    only_second: int
    statistic: float
    p_value: float


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> McNemar:
    """Test two classifiers by which of the same images each classified rightly: bool [N], twice."""
    first = int(np.sum(first_right & ~second_right))
    second = int(np.sum(second_right & ~first_right))
    differing = first + second
    if differing == 0:
        return McNemar(0, 0, 0.0, 1.0)
    p_value = float(binomtest(first, differing).pvalue)
    return McNemar(first, second, (first - second) ** 2 / differing, p_value)
