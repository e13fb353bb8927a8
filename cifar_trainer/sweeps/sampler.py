"""Optuna's samplers and pruners, by name; the samplers are reproducible and avoid repeating a trial."""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from cifar_trainer.sweeps.space import Space, combinations

#: Proposals to try before untried values are drawn at random.
ATTEMPTS = 20

#: Functions from a seed to an Optuna sampler.
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed),
    "qmc": lambda seed: optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False),
}
#: Functions from the number of epochs to an Optuna pruner.
PRUNERS: dict[str, Callable[[int], BasePruner]] = {
    "median": lambda epochs: optuna.pruners.MedianPruner(),
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs),
    "none": lambda epochs: optuna.pruners.NopPruner(),
}


class DistinctSampler(BaseSampler):
    """Wraps another sampler so that it does not repeat an earlier trial.

    Each trial has its own seed, derived from the sweep's seed and the trial's number: a sweep with one
    worker is reproducible, and two commands do not draw the same values.

    Args:
        name: name of the other sampler.
        seed: the sweep's seed.
        space: the ranges. If the space is finite and the sampler proposes nothing new, an untried
            combination is drawn.
    """

    def __init__(self, name: str, seed: int, space: Space) -> None:
        self._name, self._seed = name, seed
        self._space: dict[str, BaseDistribution] = {**space}
        self._combinations = combinations(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        # All parameters in one call, to compare whole combinations.
        return self._space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Not `study.get_trials`: under Hyperband it lists only the trials of this trial's bracket.
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        others = [other for other in trials if other.number != trial.number]
        tried = {_key(other.params) for other in others}
        for attempt in range(ATTEMPTS):
            values = self._propose(study, trial, attempt)
            if _key(values) not in tried:
                return values
        untried = self.untried(others)
        return random.Random(self._seed_of(trial, ATTEMPTS)).choice(untried) if untried else values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # Optuna calls this only for a parameter outside the space.
        return self._sampler(trial, 0).sample_independent(study, trial, param_name, param_distribution)

    def untried(self, trials: Sequence[FrozenTrial]) -> list[dict[str, Any]] | None:
        """The combinations that none of `trials` has used; None if the space is infinite."""
        if self._combinations is None:
            return None
        tried = {_key(trial.params) for trial in trials}
        return [values for values in self._combinations if _key(values) not in tried]

    def _propose(self, study: Study, trial: FrozenTrial, attempt: int) -> dict[str, Any]:
        sampler = self._sampler(trial, attempt)
        values = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        return {
            name: values[name]
            if name in values
            else sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in self._space.items()
        }

    def _sampler(self, trial: FrozenTrial, attempt: int) -> BaseSampler:
        # All trials share one quasi-random sequence.
        seed = self._seed if self._name == "qmc" else self._seed_of(trial, attempt)
        return SAMPLERS[self._name](seed)

    def _seed_of(self, trial: FrozenTrial, attempt: int) -> int:
        return zlib.crc32(f"{self._seed}/{trial.number}/{attempt}".encode())


def _key(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))
