"""How the next values are chosen: Optuna's samplers, made reproducible and kept from repeating themselves."""

import random
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from cifar_trainer.sweeps.space import Parameter, Space, Value, combinations

#: How often a sampler is asked again where it proposes what was tried already.
ATTEMPTS = 20


def make_sampler(name: str, seed: int) -> BaseSampler:
    """A sampler of Optuna's by its name, one of `sweep.SAMPLERS`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "random":
            return optuna.samplers.RandomSampler(seed)
        if name == "qmc":
            return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        return optuna.samplers.TPESampler(seed=seed)


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """A pruner of Optuna's by its name, one of `sweep.PRUNERS`, for trials of so many epochs."""
    if name == "median":
        return optuna.pruners.MedianPruner()
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)
    return optuna.pruners.NopPruner()


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """A space in Optuna's words, by parameter."""
    return {parameter.name: _distribution(parameter) for parameter in space}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.whole:
        step = 1 if parameter.log else int(parameter.step or 1)
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log, step=step)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


class DistinctSampler(BaseSampler):
    """Another sampler's values, but never those of an earlier trial.

    Each trial has a seed of its own, made of the sweep's and the trial's number: a sweep with one worker
    repeats itself, and two commands with the same seed do not draw the same.

    Args:
        name: of the sampler.
        seed: of the sweep.
        space: what varies. Where it has finitely many combinations and the sampler finds no new one, one
            of those that are left is drawn.
    """

    def __init__(self, name: str, seed: int, space: Space) -> None:
        self._name, self._seed = name, seed
        self._distributions = distributions(space)
        self._combinations = combinations(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        # All parameters at once, so that a repetition is seen.
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        tried = {_key(each.params) for each in others}
        for attempt in range(ATTEMPTS):
            values = self._propose(study, trial, attempt)
            if _key(values) not in tried:
                return values
        left = self.left(others)
        return random.Random(self._seed_of(trial, ATTEMPTS)).choice(left) if left else values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # Only of a parameter that is not the sweep's.
        return self._sampler(trial, 0).sample_independent(study, trial, param_name, param_distribution)

    def left(self, trials: Sequence[FrozenTrial]) -> list[dict[str, Value]] | None:
        """The combinations that none of `trials` has; None where they are endless."""
        if self._combinations is None:
            return None
        tried = {_key(each.params) for each in trials}
        return [each for each in self._combinations if _key(each) not in tried]

    def _propose(self, study: Study, trial: FrozenTrial, attempt: int) -> dict[str, Any]:
        sampler = self._sampler(trial, attempt)
        values = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        return {
            name: values[name] if name in values else sampler.sample_independent(study, trial, name, each)
            for name, each in self._distributions.items()
        }

    def _sampler(self, trial: FrozenTrial, attempt: int) -> BaseSampler:
        # A sequence of low discrepancy is one sequence for all trials.
        seed = self._seed if self._name == "qmc" else self._seed_of(trial, attempt)
        return make_sampler(self._name, seed)

    def _seed_of(self, trial: FrozenTrial, attempt: int) -> int:
        return zlib.crc32(f"{self._seed}/{trial.number}/{attempt}".encode())


def _key(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))
