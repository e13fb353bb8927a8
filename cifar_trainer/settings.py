"""The settings of a training run: checked before any work starts, kept with the run."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer.errors import UsageError

#: Where prepared data sets lie when nobody says otherwise, below the current folder.
DEFAULT_DATA_DIR = Path("data")

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")
#: What other frameworks call a GPU.
DEVICE_ALIASES = {"cuda": "gpu", "cuda:0": "gpu", "0": "gpu", "mps": "gpu", "GPU:0": "gpu", "/GPU:0": "gpu"}
VALIDATIONS = ("test", "holdout", "train")
#: What each of them is, in words.
WATCHED = {
    "test": "test set",
    "holdout": "held-out training images",
    "train": "images that it was trained on",
}
#: The forms of convolutions, see `training.layers.choose_forms`.
CONVOLUTIONS = ("auto", "cudnn", "matmul")
SCHEDULES = ("constant", "cosine", "triangular", "plateau")
KEEPS = ("last", "best")
CLASS_WEIGHTS = ("balanced",)
#: Several seeds in one program: on a GPU only, also on a CPU, or never.
STACKS = ("auto", "on", "off")

#: Keras and NumPy take more, TensorFlow's stateless operations take 32 bits.
MAX_SEED = 2**32 - 1
MAX_COUNT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every setting of a run, resolved: no value is left to a default elsewhere.

    Attributes:
        recipe: the name of a recipe (`cifar_trainer.recipes`), or of one's own.
        dataset: the name of a dataset (`cifar_trainer.data`).
        epochs: passes over the training images.
        batch_size: images a step; the last step of an epoch takes what is left.
        learning_rate: the peak, where the recipe has a schedule.
        seed: decides the first weights, the order, augmentation and dropout.
        validation: the split that is watched, one of `VALIDATIONS`.
        precision: the type in which the layers compute; weights stay float32.
        device: as asked for, one of `DEVICES`; environment.json says what was used.
        deterministic: refuse operations whose result may differ from run to run.
        xla: whether XLA compiles the step; None is on for a GPU and off for a CPU.
        conv: the form in which convolutions are computed, one of `CONVOLUTIONS`.
        limit: train on that many images, stratified; None is all.
        schedule: of the learning rate, one of `SCHEDULES`; None is the recipe's own.
        warmup: epochs, also fractions, over which the rate rises to its peak; None is the recipe's own.
        weight_decay: decoupled from the gradient, of all weights but biases and those of normalization; None
            is the recipe's own.
        label_smoothing: from 0 to below 1; None is the recipe's own.
        ema: the momentum of a moving average of the weights, which is then what is validated and kept.
        patience: epochs without a higher validation accuracy after which training ends; None trains them all.
        keep: whose epoch's weights the model has, one of `KEEPS`.
        class_weights: `balanced` weighs each image's loss by the rarity of its class; None weighs all alike.
        recipe_sha256: of the file of a recipe of one's own; None for those that come with the package.

    Raises:
        UsageError: a value out of its range, named with the range or the choices.
    """

    recipe: str
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int = 0
    validation: str = "test"
    precision: str = "float32"
    device: str = "auto"
    deterministic: bool = False
    xla: bool | None = None
    conv: str = "auto"
    limit: int | None = None
    schedule: str | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    ema: float | None = None
    patience: int | None = None
    keep: str = "last"
    class_weights: str | None = None
    recipe_sha256: str | None = None

    def __post_init__(self) -> None:
        check_choice("validation", self.validation, VALIDATIONS)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("device", self.device, DEVICES, DEVICE_ALIASES)
        check_choice("conv", self.conv, CONVOLUTIONS)
        check_count("epochs", self.epochs)
        check_count("batch-size", self.batch_size)
        if self.limit is not None:
            check_count("limit", self.limit)
        check_learning_rate(self.learning_rate)
        check_seed(self.seed)
        self._check_controls()

    def _check_controls(self) -> None:
        check_choice("keep", self.keep, KEEPS)
        if self.schedule is not None:
            check_choice("schedule", self.schedule, SCHEDULES)
        if self.class_weights is not None:
            check_choice("class-weights", self.class_weights, CLASS_WEIGHTS)
        if self.warmup is not None and not 0 <= self.warmup <= self.epochs:
            raise UsageError(
                f"--warmup {self.warmup} is out of range. Expected epochs from 0 to --epochs ({self.epochs})."
            )
        if self.weight_decay is not None and not (
            math.isfinite(self.weight_decay) and self.weight_decay >= 0
        ):
            raise UsageError(
                f"--weight-decay {self.weight_decay} is out of range. Expected a number from 0 up."
            )
        for name, value in (("label-smoothing", self.label_smoothing), ("ema", self.ema)):
            if value is not None and not 0 <= value < 1:
                raise UsageError(f"--{name} {value} is out of range. Expected a number from 0 to below 1.")
        if self.patience is not None:
            check_count("patience", self.patience)
        if self.schedule == "plateau" and self.warmup is not None:
            raise UsageError("--warmup does not go with --schedule plateau. Leave one of them out.")
        for option, chosen in (
            ("--schedule plateau", self.schedule == "plateau" and self.validation == "test"),
            ("--patience", self.patience is not None),
            ("--keep best", self.keep == "best"),
        ):
            if chosen and self.validation != "holdout":
                raise UsageError(
                    f"{option} needs --validation holdout. It chooses by the validation images; an accuracy "
                    "on the images that it was chosen by says nothing about others."
                )

    def decisive(self) -> dict[str, Any]:
        """The settings that decide a result: all but the seed, and those of where and how it is computed."""
        how = ("seed", "device", "deterministic", "xla", "conv")
        return {k: v for k, v in self.to_json().items() if k not in how}

    def to_json(self) -> dict[str, Any]:
        """The settings as a flat JSON object, in the order of the attributes."""
        return dataclasses.asdict(self)


def check_choice(
    name: str, value: str, choices: Sequence[str], aliases: Mapping[str, str] | None = None
) -> None:
    """Raise UsageError, with the choices and the nearest of them, unless `value` is one.

    Args:
        name: of the option, without its dashes.
        value: as received.
        choices: what is possible.
        aliases: names that people know from other tools, and the choice that they mean.
    """
    if value in choices:
        return
    meant = (aliases or {}).get(str(value)) or next(
        iter(difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)), None
    )
    hint = f" Did you mean {meant!r}?" if meant else ""
    raise UsageError(f"--{name} {value!r} is not known. Choose from {', '.join(choices)}.{hint}")


def check_count(name: str, value: int) -> None:
    """Raise UsageError unless 1 <= value <= MAX_COUNT."""
    if not 1 <= value <= MAX_COUNT:
        raise UsageError(f"--{name} {value} is out of range. Expected a whole number from 1 up.")


def check_seconds(name: str, value: float) -> None:
    """Raise UsageError unless 0 < value < infinity."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"--{name} {value} is out of range. Expected a number of seconds above 0.")


def check_learning_rate(value: float) -> None:
    """Raise UsageError unless 0 < value < infinity."""
    if not (math.isfinite(value) and value > 0):
        raise UsageError(
            f"--learning-rate {value} is out of range. Expected a finite number above 0, such as 0.001."
        )


def check_seed(value: int) -> None:
    """Raise UsageError unless 0 <= value <= MAX_SEED."""
    if not 0 <= value <= MAX_SEED:
        raise UsageError(f"--seed {value} is out of range. Expected a whole number from 0 to {MAX_SEED}.")
