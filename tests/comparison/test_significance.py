"""McNemar's test, against scipy's chi-square test and a sum by hand."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare

from cifar_trainer.significance import mcnemar


def correct(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_first, only_second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


@pytest.mark.parametrize(("only_first", "only_second"), [(9, 2), (2, 9), (30, 30), (1091, 975), (1, 0)])
def test_statistic_and_exact_p_value(only_first: int, only_second: int) -> None:
    found = mcnemar(*correct(50, only_first, only_second, 7))
    n, least = only_first + only_second, min(only_first, only_second)
    assert (found.only_first, found.only_second) == (only_first, only_second)
    # If neither is better, the images on which they differ fall evenly on both.
    assert found.statistic == pytest.approx(chisquare([only_first, only_second]).statistic)
    tail = sum(math.comb(n, k) for k in range(least + 1)) * 2
    assert found.p_value == pytest.approx(min(1.0, tail / 2**n))


def test_two_models_that_never_differ_do_not_differ() -> None:
    found = mcnemar(*correct(5, 0, 0, 5))
    assert (found.statistic, found.p_value) == (0.0, 1.0)


def test_images_on_which_both_agree_do_not_count() -> None:
    assert mcnemar(*correct(0, 9, 2, 0)) == mcnemar(*correct(900, 9, 2, 70))
