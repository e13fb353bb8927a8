"""The arguments of a sweep, checked before anything starts."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from cifar_trainer.errors import UsageError
from cifar_trainer.recipes import get_recipe
from cifar_trainer.settings import RuntimeOptions, Settings, check_choice, check_count, check_seed, declared
from cifar_trainer.sweeps.sampler import PRUNERS, SAMPLERS
from cifar_trainer.sweeps.space import Space, extremes

#: Arguments of `train` that each command chooses for itself.
RUNTIME_ARGUMENTS = ("data_dir", "device", *declared(RuntimeOptions))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The arguments of `sweep`, checked.

    Attributes:
        settings: arguments of `train` that all trials share.
        runtime: arguments of `train` that this command chose for itself.

    Raises:
        UsageError: a value is out of its range.
    """

    name: str
    space: Space
    trials: int
    sampler: str
    pruner: str
    seed: int
    workers: int
    confirm: int
    confirm_seeds: int
    heartbeat: int
    settings: dict[str, Any]
    runtime: dict[str, Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", self.name):
            raise UsageError(
                f"--name {self.name!r} cannot be used. Expected up to 100 letters, digits, '-', '_', '.'."
            )
        check_choice("sampler", self.sampler, tuple(SAMPLERS))
        check_choice("pruner", self.pruner, tuple(PRUNERS))
        check_seed(self.seed)
        for name in ("trials", "workers", "heartbeat", "confirm_seeds"):
            check_count(name.replace("_", "-"), getattr(self, name))
        if self.confirm < 0:
            raise UsageError(f"--confirm {self.confirm} is out of range. Expected a whole number from 0 up.")
        validation = self.settings.get("validation", "holdout")
        if validation != "holdout":
            raise UsageError(
                f"--validation {validation}: a sweep chooses by held-out images, so that the test set stays "
                "an independent check. Leave it out, or use --validation holdout."
            )
        for name in self.space:
            if name in self.settings:
                raise UsageError(f"{name} has both a value and a range. Leave out one of them.")
        for values in self.extremes():
            self.config(values)

    @property
    def common(self) -> dict[str, Any]:
        """Arguments of `train` that affect the result and are the same for all trials."""
        return {**self.settings, "seed": self.seed, "validation": "holdout"}

    def extremes(self) -> list[dict[str, Any]]:
        """Values to check: each setting at its limits, the others at their lowest value or first choice."""
        limits = {name: extremes(each) for name, each in self.space.items()}
        lowest = {name: values[0] for name, values in limits.items()}
        return [{**lowest, name: value} for name, values in limits.items() for value in values]

    def config(self, values: Mapping[str, Any]) -> Settings:
        """The settings of a trial with these values.

        Raises:
            UsageError: a value is invalid.
        """
        arguments = {**self.common, **values}
        recipe = arguments.pop("recipe", declared(Settings)["recipe"].default)
        return get_recipe(str(recipe)).settings(arguments)
