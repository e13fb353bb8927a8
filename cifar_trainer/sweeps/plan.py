"""What a sweep does, as checked before anything is begun."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from cifar_trainer.devices.cuda import visible_gpus
from cifar_trainer.errors import UsageError
from cifar_trainer.recipes import get_recipe
from cifar_trainer.settings import RuntimeOptions, Settings, check_choice, check_count, check_seed, declared
from cifar_trainer.sweeps.space import Space, describe

SAMPLERS = ("tpe", "random", "qmc")
PRUNERS = ("median", "hyperband", "none")
#: The version of what all commands of a study must agree on.
FORMAT = 1
#: Arguments of `train` that each command chooses for itself.
CARRIED_OUT = ("data_dir", "device", *declared(RuntimeOptions))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep does, checked.

    Attributes:
        name: of the study.
        space: what varies.
        trials: how many there are to be, over all commands.
        sampler, pruner: of `SAMPLERS` and `PRUNERS`.
        seed: of the sampler, and of all trials.
        workers: processes of this command.
        confirm: how many of the best are trained again.
        confirm_seeds: with how many seeds each.
        heartbeat: seconds between signs of life, for a database that several commands share.
        settings: the arguments of `train` that all trials have in common.
        carried_out: those that this command has chosen for its own.

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
    carried_out: dict[str, Any]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", self.name):
            raise UsageError(
                f"--name {self.name!r} cannot be used. Expected up to 100 letters, digits, '-', '_', '.'."
            )
        check_choice("sampler", self.sampler, SAMPLERS)
        check_choice("pruner", self.pruner, PRUNERS)
        check_seed(self.seed)
        for name in ("trials", "workers", "heartbeat", "confirm_seeds"):
            check_count(name.replace("_", "-"), getattr(self, name))
        if self.confirm < 0:
            raise UsageError(f"--confirm {self.confirm} is out of range. Expected a whole number from 0 up.")
        validation = self.settings.get("validation", "holdout")
        if validation != "holdout":
            raise UsageError(
                f"--validation {validation}: a sweep chooses by held-out images, so that the test set stays "
                "an independent check. Leave it out, or give --validation holdout."
            )
        for parameter in self.space:
            if parameter.name in self.settings:
                raise UsageError(
                    f"{parameter.name} was given both a value and a range. Leave out one of them."
                )
            for value in parameter.extremes():
                self.config({parameter.name: value})

    def config(self, values: Mapping[str, Any]) -> Settings:
        """The settings of a trial with these values, the rest as the recipe has them.

        Raises:
            UsageError: they are not possible.
        """
        given = {"dataset": "cifar10", "recipe": "document", **self.settings, **values}
        recipe = get_recipe(str(given["recipe"]))
        defaults = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "learning_rate")}
        return Settings(**{**defaults, **given, "seed": self.seed, "validation": "holdout"})

    def agreed(self, fingerprint: str) -> dict[str, Any]:
        """What all commands of a study must have in common."""
        return {
            "format": FORMAT,
            "space": describe(self.space),
            "settings": {**self.settings, "seed": self.seed, "validation": "holdout"},
            "data": fingerprint,
        }


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """How what a study was begun with differs from what a command would agree on (`Plan.agreed`)."""
    found = []
    for part in ("space", "settings"):
        before, now = theirs.get(part, {}), ours[part]
        found += [
            f"{key} was {before.get(key, 'not given')}, now {now.get(key, 'not given')}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
    if theirs.get("data") != ours["data"]:
        found.append("the training images were others")
    return found


def worker_environments(workers: int, device: str) -> list[dict[str, str]]:
    """Variables that give each worker a GPU of its own, as far as there are any; else they change nothing."""
    gpus = visible_gpus()
    if device == "cpu" or workers == 1 or len(gpus) < 2:
        return [{}]
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
