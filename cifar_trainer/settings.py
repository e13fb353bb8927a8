"""Each setting of a run, and each runtime option, declared once.

A setting belongs to the run: config.json keeps it, and a resume must not change it unless its declaration
says so. A runtime option changes how a run is carried out, and nothing that it computes.

The options of `train`, the arguments of `cifar_trainer.train`, their checks, what `sweep` may vary, what
`--resume` may change and the table in docs/training.md all follow from these declarations.
"""

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer.errors import UsageError

if TYPE_CHECKING:
    import keras

    from cifar_trainer.training.reporter import TrainingReporter

#: The default folder of the prepared data sets.
DEFAULT_DATA_DIR = Path("data")

#: Former names of recipes, which commands, configurations and old runs may have.
FORMER_RECIPES = {"document": "tutorial"}
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")
#: What other frameworks call a device.
DEVICE_ALIASES = {"cuda": "gpu", "cuda:0": "gpu", "0": "gpu", "mps": "gpu", "GPU:0": "gpu", "/GPU:0": "gpu"}
#: The validation splits, in words.
VALIDATIONS = {
    "test": "test set",
    "holdout": "held-out training images",
    "train": "images that it was trained on",
}
#: How convolutions are computed; see `training.layers.choose_variants`.
CONVOLUTIONS = ("auto", "cudnn", "matmul")
SCHEDULES = ("constant", "cosine", "triangular", "plateau")
KEEPS = ("last", "best")
CLASS_WEIGHTS = ("balanced",)
#: Whether several seeds train in one program: on a GPU only, also on a CPU, or never.
STACKS = ("auto", "on", "off")

#: Keras and NumPy accept larger ones; TensorFlow's stateless operations take 32 bits.
MAX_SEED = 2**32 - 1
MAX_COUNT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What is known of one setting or runtime option.

    Attributes:
        name: of the field.
        type: of its values: int, float, bool or str.
        optional: whether None is a value: not set.
        default: of the option; None leaves it to the recipe where `of_recipe`, and is "not set" elsewhere.
        help: one sentence.
        of_recipe: whether every recipe has a value for it.
        default_text: the default in words, if it is not `default`.
        choices, aliases: the possible texts, and what other tools call them.
        at_least, above, below, at_most: the range of a number.
        example: a value for the message.
        seconds: whether it is a duration.
        metavar: of the value in `--help`; None is the choices or the type.
        affects_result: whether another value gives other weights.
        vary: whether a sweep may vary it.
        resumable: whether a resume may change it.
        needs_holdout: whether it chooses by the validation images, which must then be held out.
        in_sweep: whether `sweep` has it as an option of its own.
    """

    name: str
    type: type
    optional: bool
    default: Any
    help: str
    of_recipe: bool = False
    default_text: str = ""
    choices: tuple[str, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None
    example: str | None = None
    seconds: bool = False
    metavar: str | None = None
    affects_result: bool = True
    vary: bool = False
    resumable: bool = False
    needs_holdout: bool = False
    in_sweep: bool = True

    @property
    def option(self) -> str:
        """The option of the command line."""
        return option_name(self.name)

    @property
    def shown_default(self) -> str:
        """The default as help texts and the docs show it; empty if there is none."""
        if self.default is None or self.default is False:
            return "the recipe's" if self.of_recipe else self.default_text
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def expected(self) -> str:
        """The possible values, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type is bool:
            return "True or False"
        if self.type is str:
            return "a text"
        noun = "a whole number" if self.type is int else "a number"
        noun = "a number of seconds" if self.seconds else noun
        low = f"above {self.above}" if self.above is not None else f"from {self.at_least}"
        high = "" if self.above is not None else " up"
        if self.below is not None:
            high = f" to below {self.below}"
        elif self.at_most is not None:
            high = f" to {self.at_most}"
        example = f", such as {self.example}" if self.example else ""
        return f"{noun} {low}{high}{example}"

    def check(self, value: Any) -> None:
        """Raise UsageError, with what was expected, unless `value` is possible."""
        if value is None and self.optional:
            return
        # To Python a bool is an int, but True is not a number of epochs.
        kinds = {int: int, float: int | float, bool: bool, str: str}[self.type]
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.type is not bool):
            raise UsageError(f"{self.option} {value!r} is {_a_type(value)}. Expected {self.expected}.")
        if isinstance(value, str):
            if self.choices:
                check_choice(self.name, value, self.choices, self.aliases)
        elif not isinstance(value, bool):
            self._check_range(value)

    def _check_range(self, value: float) -> None:
        fits = (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )
        if not fits:
            raise UsageError(f"{self.option} {value} is out of range. Expected {self.expected}.")
        if self.type is int and value > MAX_COUNT and self.at_most is None:
            raise UsageError(f"{self.option} {value} is out of range. Expected at most {MAX_COUNT}.")


def _a_type(value: Any) -> str:
    names = {str: "a text", bool: "True or False", int: "a number", float: "a fraction"}
    return "not set" if value is None else names.get(type(value), f"of type {type(value).__name__}")


def setting(default: Any = None, *, required: bool = False, **declaration: Any) -> Any:
    """A declared field of `Settings` or `RuntimeOptions`.

    Args:
        default: what `train` takes if nothing is given.
        required: whether the dataclass itself has no default, so that a run's settings are complete.
        declaration: attributes of `Declaration`.
    """
    metadata = {"declaration": {"default": default, **declaration}}
    if required or declaration.get("of_recipe"):
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def declared(cls: type) -> dict[str, Declaration]:
    """The declarations of `Settings` or `RuntimeOptions`, by name, in their order."""
    found = {}
    for field in dataclasses.fields(cls):
        if "declaration" in field.metadata:
            kind, optional = _type_of(field.type)
            found[field.name] = Declaration(field.name, kind, optional, **field.metadata["declaration"])
    return found


def _type_of(hint: Any) -> tuple[type, bool]:
    """The type of `int` or `int | None`, and whether None is possible."""
    if isinstance(hint, types.UnionType):
        (kind,) = (each for each in typing.get_args(hint) if each is not type(None))
        return kind, True
    return hint, False


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, resolved: no value is left to a default elsewhere.

    Attributes:
        recipe_sha256: the SHA-256 of the file of a user's own recipe; None for the package's recipes.

    Raises:
        UsageError: a value is out of its range, named with the range or the choices.
    """

    recipe: str = setting(
        "tutorial", required=True, vary=True,
        help="Network and training: a name, or a FILE.py of your own, which is run and copied into the run.",
    )  # fmt: skip
    dataset: str = setting("cifar10", required=True, metavar="NAME", help="Data set to train on.")
    epochs: int = setting(
        of_recipe=True, at_least=1, vary=True, resumable=True, help="Passes over the training images."
    )
    batch_size: int = setting(of_recipe=True, at_least=1, vary=True, help="Images per step.")
    learning_rate: float = setting(
        of_recipe=True, above=0, example="0.001", vary=True, help="Peak learning rate."
    )
    seed: int = setting(
        0, at_least=0, at_most=MAX_SEED, help="Seed of weights, image order, augmentation and dropout."
    )
    validation: str = setting(
        "test", choices=tuple(VALIDATIONS),
        help="Validate on the test set, as the tutorial does; on a tenth of the training images, held out; "
        "or on a tenth of the images trained on, which leaves the test set unseen and holds nothing out.",
    )  # fmt: skip
    precision: str = setting(
        "float32", choices=PRECISIONS, vary=True, help="Compute dtype of the layers; weights stay float32."
    )
    device: str = setting(
        "auto", choices=DEVICES, aliases=DEVICE_ALIASES, affects_result=False, resumable=True,
        help="Where to compute.",
    )  # fmt: skip
    deterministic: bool = setting(False, affects_result=False, help="Bit-reproducible on a GPU too.")
    xla: bool | None = setting(
        None, affects_result=False, default_text="on a GPU only", help="Compile the training loop with XLA."
    )
    conv: str = setting(
        "auto", choices=CONVOLUTIONS, affects_result=False,
        help="How convolutions are computed; auto is matmul for small ones on a GPU.",
    )  # fmt: skip
    limit: int | None = setting(
        None, at_least=1, metavar="N", help="Train on the first N images, stratified."
    )
    schedule: str | None = setting(
        None, choices=SCHEDULES, default_text="the recipe's", vary=True,
        help="Learning rate over the run; plateau halves it when validation stalls.",
    )  # fmt: skip
    warmup: float | None = setting(
        None, at_least=0, metavar="EPOCHS", vary=True, help="Raise the learning rate over these epochs."
    )
    weight_decay: float | None = setting(
        None,
        at_least=0,
        default_text="the recipe's",
        vary=True,
        help="Decoupled weight decay of the kernels.",
    )
    label_smoothing: float | None = setting(
        None, at_least=0, below=1, default_text="the recipe's", vary=True,
        help="Share of the target that is spread over all classes.",
    )  # fmt: skip
    ema: float | None = setting(
        None, at_least=0, below=1, metavar="MOMENTUM", vary=True,
        help="Validate and keep a moving average of the weights.",
    )  # fmt: skip
    patience: int | None = setting(
        None, at_least=1, metavar="EPOCHS", vary=True, needs_holdout=True,
        help="Stop after this many epochs without a better validation accuracy.",
    )  # fmt: skip
    keep: str = setting(
        "last", choices=KEEPS, vary=True, needs_holdout=True, help="Epoch whose weights the model gets."
    )
    class_weights: str | None = setting(
        None, choices=CLASS_WEIGHTS, help="Weight each image's loss by the rarity of its class."
    )
    recipe_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.recipe_sha256 is None:
            object.__setattr__(self, "recipe", FORMER_RECIPES.get(self.recipe, self.recipe))
        for name, declaration in declared(Settings).items():
            declaration.check(getattr(self, name))
        if self.warmup is not None and self.warmup > self.epochs:
            raise UsageError(
                f"--warmup {self.warmup} is out of range. Expected a number from 0 to --epochs "
                f"({self.epochs})."
            )
        if self.schedule == "plateau" and self.warmup is not None:
            raise UsageError("--warmup does not go with --schedule plateau. Leave one of them out.")
        if self.schedule == "plateau" and self.validation == "test":
            raise _needs_holdout("--schedule plateau")
        for name, declaration in declared(Settings).items():
            if not declaration.needs_holdout or self.validation == "holdout":
                continue
            value = getattr(self, name)
            if value != declaration.default:
                shown = f" {value}" if declaration.choices else ""
                raise _needs_holdout(f"{declaration.option}{shown}")

    def identity(self) -> dict[str, Any]:
        """The settings that a resume must not change."""
        resumable = {name for name, each in declared(Settings).items() if each.resumable}
        return {name: value for name, value in self.to_json().items() if name not in resumable}

    def affecting_result(self) -> dict[str, Any]:
        """The settings that determine a result, except the seed."""
        others = {"seed", *(name for name, each in declared(Settings).items() if not each.affects_result)}
        return {name: value for name, value in self.to_json().items() if name not in others}

    def to_json(self) -> dict[str, Any]:
        """The settings as a flat JSON object, in the order of their declaration."""
        return dataclasses.asdict(self)


def _needs_holdout(option: str) -> UsageError:
    return UsageError(
        f"{option} needs --validation holdout. It chooses by the validation images; an accuracy "
        "on the images that it was chosen by says nothing about others."
    )


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """How a run is carried out. Nothing here changes what it computes; each resume may choose other values.

    Attributes:
        callbacks: Keras callbacks, called at epochs and between chunks of steps.
        reporter: receives the progress; None prints it.
        should_stop: called between chunks of steps; True saves and stops.
        end_after: epochs after which training ends, with the schedule of all epochs; None trains all.
        verbose: show TensorFlow's own messages.
        side_by_side: the number of runs that train in one program, this one included.

    Raises:
        UsageError: a value is out of its range.
    """

    checkpoint_every: float = setting(
        60.0, above=0, seconds=True, metavar="TIME", help="Time between checkpoints within an epoch."
    )
    time_limit: float | None = setting(
        None, above=0, seconds=True, metavar="TIME", in_sweep=False,
        help="Stop after the last epoch that fits, such as 90s, 10m or 2h.",
    )  # fmt: skip
    profile: bool = setting(False, in_sweep=False, help="Trace some steps for TensorBoard's profiler.")
    histograms: bool = setting(False, in_sweep=False, help="Log weights and gradient norms to TensorBoard.")
    offline: bool = setting(False, help="Never download.")
    callbacks: "Sequence[keras.callbacks.Callback]" = ()
    reporter: "TrainingReporter | None" = None
    should_stop: Callable[[], bool] = _never
    end_after: int | None = None
    verbose: bool = False
    side_by_side: int = 1

    def __post_init__(self) -> None:
        for name, declaration in declared(RuntimeOptions).items():
            declaration.check(getattr(self, name))


def option_name(name: str) -> str:
    """The command-line option of a setting: `--batch-size` for `batch_size`."""
    return f"--{name.replace('_', '-')}"


def check_choice(
    name: str, value: str, choices: Sequence[str], aliases: Mapping[str, str] | None = None
) -> None:
    """Raise UsageError, with the choices and the nearest of them, unless `value` is one.

    Args:
        name: of the option, with or without its dashes.
        value: as received.
        choices: the possible values.
        aliases: names from other tools, and the choice that they mean.
    """
    if value in choices:
        return
    meant = (aliases or {}).get(str(value)) or next(
        iter(difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)), None
    )
    hint = f" Did you mean {meant!r}?" if meant else ""
    raise UsageError(f"{option_name(name)} {value!r} is not known. Choose from {', '.join(choices)}.{hint}")


def check_count(name: str, value: int) -> None:
    """Raise UsageError unless 1 <= value <= MAX_COUNT."""
    Declaration(name, int, False, None, "", at_least=1).check(value)


def check_seconds(name: str, value: float) -> None:
    """Raise UsageError unless 0 < value < infinity."""
    Declaration(name, float, False, None, "", above=0, seconds=True).check(value)


def check_seed(value: int) -> None:
    """Raise UsageError unless 0 <= value <= MAX_SEED."""
    declared(Settings)["seed"].check(value)


def _is_short(value: Any) -> bool:
    return isinstance(value, float) and float(f"{value:g}") == value


def command_words(arguments: Mapping[str, Any]) -> list[str]:
    """The options of the command line that give these arguments of `train`; None gives none.

    Fields of `RuntimeOptions` that are not declared have no option.
    """
    words = []
    without_option = {field.name for field in dataclasses.fields(RuntimeOptions)} - {
        *declared(RuntimeOptions)
    }
    for name, value in arguments.items():
        declaration = declared(Settings).get(name)
        if name in without_option:
            continue
        if value is True:
            words.append(option_name(name))
        elif value is False and declaration is not None and declaration.optional:
            words.append(f"--no-{option_name(name).removeprefix('--')}")
        elif value is not None and value is not False:
            words += [option_name(name), f"{value:g}" if _is_short(value) else str(value)]
    return words
