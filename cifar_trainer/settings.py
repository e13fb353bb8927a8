"""Declarations of a run's settings and runtime options; `serving.settings` has those of `serve`.

A setting belongs to the run: config.json stores it, and a resume must not change it unless its declaration
says so. A runtime option changes how a run executes, but not what it computes.

The options of `train`, the arguments of `cifar_trainer.train`, their checks, the settings that `sweep` may
vary or `--resume` may change, and the table in docs/training.md are all derived from these declarations.
"""

import dataclasses
import difflib
import functools
import inspect
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cifar_trainer.errors import UsageError

if TYPE_CHECKING:
    import keras

    from cifar_trainer.training.reporter import TrainingReporter

F = TypeVar("F", bound=Callable[..., Any])

#: The default folder of the prepared data sets.
DEFAULT_DATA_DIR = Path("data")

#: Former recipe names, still accepted in commands, configurations and old runs.
FORMER_RECIPES = {"document": "tutorial"}
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "gpu")
#: Device names from other frameworks.
DEVICE_ALIASES = {"cuda": "gpu", "cuda:0": "gpu", "0": "gpu", "mps": "gpu", "GPU:0": "gpu", "/GPU:0": "gpu"}
#: The validation splits, in words.
VALIDATIONS = {
    "test": "test set",
    "holdout": "held-out training images",
    "train": "images that it was trained on",
}
#: When a run validates.
VALIDATES = ("each-epoch", "end")
#: Implementations of convolutions; see `training.layers.choose_variants`.
CONVOLUTIONS = ("auto", "cudnn", "matmul")
SCHEDULES = ("constant", "cosine", "triangular", "plateau")
KEEPS = ("last", "best")
CLASS_WEIGHTS = ("balanced",)
#: The value of `weights` that names the weights trained on ImageNet.
IMAGENET = "imagenet"
#: The value of `freeze` that freezes every layer except the last.
ALL_BUT_HEAD = "all-but-head"
#: The operations of --augment in the order in which they are applied: type and range of each argument.
AUGMENTATIONS: Mapping[str, Sequence[tuple[type, float, float]]] = {
    "crop": [(int, 1, 64)],
    "flip": [],
    "randaugment": [(int, 1, 8), (int, 0, 10)],
    "erase": [(float, 0, 1)],
    "mixup": [(float, 0.01, 100)],
    "cutmix": [(float, 0.01, 100)],
}
#: When several seeds train in one program: on a GPU only, also on a CPU, or never.
STACKS = ("auto", "on", "off")

#: Keras and NumPy accept larger seeds; TensorFlow's stateless operations take 32 bits.
MAX_SEED = 2**32 - 1
#: The smallest and largest height and width of images, in pixels.
MIN_SIZE, MAX_SIZE = 28, 256
MAX_COUNT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Declaration:
    """The declaration of one setting or runtime option.

    Attributes:
        name: the field's name.
        type: int, float, bool or str.
        optional: whether the value may be None, which means not set.
        default: the default; None means the recipe's value if `of_recipe` is set, otherwise not set.
        help: the help text, one sentence.
        of_recipe: whether every recipe has a value for it.
        default_text: shown as the default if `default` is None or False.
        choices, aliases: the allowed strings, and other tools' names for them.
        at_least, above, below, at_most: the range of a number.
        example: an example value for error messages.
        seconds: whether it is a duration in seconds.
        metavar: the value's name in `--help`; None shows the choices or the type.
        variable: an environment variable in addition to the option's usual one.
        affects_result: whether a different value gives different weights.
        vary: whether a sweep may vary it.
        resumable: whether a resume may change it.
        needs_holdout: whether it selects by validation accuracy, which requires held-out images.
        in_sweep: whether `sweep` also has this option.
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
    variable: str | None = None
    affects_result: bool = True
    vary: bool = False
    resumable: bool = False
    needs_holdout: bool = False
    in_sweep: bool = True

    @property
    def option(self) -> str:
        """The command-line option."""
        return option_name(self.name)

    @property
    def shown_default(self) -> str:
        """The default as help texts and the docs show it; empty if there is none."""
        if self.default is None or self.default is False:
            return "the recipe's" if self.of_recipe else self.default_text
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def expected(self) -> str:
        """The allowed values, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if self.type is bool:
            return "True or False"
        if self.type is str:
            return "a string"
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
        """Raise UsageError, with the allowed values, unless `value` is one of them."""
        if value is None and self.optional:
            return
        # In Python a bool is an int, but True is not a number of epochs.
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
    names = {str: "a string", bool: "True or False", int: "a number", float: "a fraction"}
    return "not set" if value is None else names.get(type(value), f"of type {type(value).__name__}")


def setting(default: Any = None, *, required: bool = False, secret: bool = False, **declaration: Any) -> Any:
    """Declare a field of a settings class.

    Args:
        default: the value if the argument is omitted.
        required: omit the dataclass field's own default, so that a run's settings are always complete.
        secret: keep the value out of logs and tracebacks.
        declaration: attributes of `Declaration`.
    """
    options: dict[str, Any] = {} if required or declaration.get("of_recipe") else {"default": default}
    metadata = {"declaration": {"default": default, **declaration}}
    return dataclasses.field(repr=not secret, metadata=metadata, **options)


@functools.cache
def declared(cls: type) -> dict[str, Declaration]:
    """The declarations of a settings class, by name, in order."""
    declarations = {}
    for field in dataclasses.fields(cls):
        if "declaration" in field.metadata:
            kind, optional = _type_of(field.type)
            declarations[field.name] = Declaration(
                field.name, kind, optional, **field.metadata["declaration"]
            )
    return declarations


def documented(
    declarations: Sequence[Declaration],
    others: Mapping[str, Any] = types.MappingProxyType({}),
    *,
    defaults: bool = True,
) -> Callable[[F], F]:
    """Document a function that takes declared settings as keyword arguments.

    Args:
        declarations: those to add to the signature, and to the docstring in place of `{settings}`.
        others: further arguments of the signature, and their defaults.
        defaults: whether the arguments have the settings' defaults; otherwise their default is None.
    """
    arguments = {each.name: each.default if defaults else None for each in declarations} | dict(others)
    lines = [
        textwrap.fill(
            f"{each.name}: {each.help}{' In seconds.' if each.seconds else ''}",
            108,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
        )
        for each in declarations
    ]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        explicit = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [inspect.Parameter(name, keyword, default=value) for name, value in arguments.items()]
        function.__signature__ = signature.replace(parameters=[*explicit, *added])  # type: ignore[attr-defined]
        function.__doc__ = (function.__doc__ or "").replace("        {settings}", "\n".join(lines))
        return function

    return decorate


def check_known(function: str, arguments: Iterable[str], known: Sequence[str]) -> None:
    """Raise UsageError, with the nearest match, if the function has no argument of one of these names."""
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else f" help(cifar_trainer.{function}) lists them."
            raise UsageError(f"{function}() has no argument {name!r}.{hint}")


def _type_of(hint: Any) -> tuple[type, bool]:
    """The type in a hint such as `int | None`, and whether None is allowed."""
    if isinstance(hint, types.UnionType):
        (kind,) = (each for each in typing.get_args(hint) if each is not type(None))
        return kind, True
    return hint, False


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, with all defaults filled in.

    Attributes:
        recipe_sha256: SHA-256 of a custom recipe's file; None for a built-in recipe.
        weights_sha256: SHA-256 of the initial weights; None until `weights` has been loaded.

    Raises:
        UsageError: a value is out of range; the message has the range or the choices.
    """

    recipe: str = setting(
        "tutorial", required=True, vary=True,
        help="Recipe: a name, or your own FILE.py, which is executed and copied into the run.",
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
        0, at_least=0, at_most=MAX_SEED, help="Seed for weights, image order, augmentation and dropout."
    )
    validation: str = setting(
        "test", choices=tuple(VALIDATIONS),
        help="Images to validate on: the test set, as in the tutorial; a held-out tenth of the training "
        "images; or a tenth of the images that are trained on.",
    )  # fmt: skip
    validate: str = setting(
        "each-epoch", choices=VALIDATES, affects_result=False, in_sweep=False,
        help="When to validate; at the end only is faster, and looks at the test set only once.",
    )  # fmt: skip
    precision: str = setting(
        "float32", choices=PRECISIONS, vary=True, help="Compute dtype of the layers; weights stay float32."
    )
    device: str = setting(
        "auto", choices=DEVICES, aliases=DEVICE_ALIASES, affects_result=False, resumable=True,
        help="Device to compute on.",
    )  # fmt: skip
    deterministic: bool = setting(False, affects_result=False, help="Make results on a GPU bit-reproducible.")
    xla: bool | None = setting(
        None, affects_result=False, default_text="on a GPU only", help="Compile the training loop with XLA."
    )
    conv: str = setting(
        "auto", choices=CONVOLUTIONS, affects_result=False,
        help="Convolution implementation; auto is matmul for small convolutions on a GPU.",
    )  # fmt: skip
    limit: int | None = setting(
        None, at_least=1, metavar="N", help="Train on the first N images, stratified."
    )
    schedule: str | None = setting(
        None, choices=SCHEDULES, default_text="the recipe's", vary=True,
        help="Learning-rate schedule; plateau halves the rate when the validation loss stalls.",
    )  # fmt: skip
    warmup: float | None = setting(
        None, at_least=0, metavar="EPOCHS", vary=True, help="Epochs of learning-rate warm-up."
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
        help="Share of the target distribution to spread uniformly over all classes.",
    )  # fmt: skip
    ema: float | None = setting(
        None, at_least=0, below=1, metavar="MOMENTUM", vary=True,
        help="Decay of a moving average of the weights, which is validated and saved.",
    )  # fmt: skip
    patience: int | None = setting(
        None, at_least=1, metavar="EPOCHS", vary=True, needs_holdout=True,
        help="Stop after this many epochs without a better validation accuracy.",
    )  # fmt: skip
    keep: str = setting(
        "last",
        choices=KEEPS,
        vary=True,
        needs_holdout=True,
        help="Epoch whose weights are saved; best is by validation accuracy.",
    )
    class_weights: str | None = setting(
        None, choices=CLASS_WEIGHTS, help="Weight each image's loss by the inverse of its class's size."
    )
    weights: str | None = setting(
        None, metavar=f"RUN|FILE.keras|{IMAGENET}", affects_result=False, vary=True,
        help="Start from the weights of a run, of a Keras file, or of the recipe trained on ImageNet.",
    )  # fmt: skip
    freeze: str | None = setting(
        None, metavar=f"N|LAYER|{ALL_BUT_HEAD}", vary=True,
        help="Freeze the first N layers, all layers up to LAYER, or all but the last.",
    )  # fmt: skip
    unfreeze_after: int | None = setting(
        None, at_least=1, metavar="EPOCHS", vary=True,
        help="After this many epochs, also train the frozen layers, at a tenth of the learning rate.",
    )  # fmt: skip
    augment: str | None = setting(
        None, metavar="LIST", default_text="the recipe's", vary=True,
        help="Augmentation: crop:4, flip, randaugment:2:9, erase:0.25, mixup:0.2, cutmix:1, or several of "
        "them joined by commas; or none.",
    )  # fmt: skip
    recipe_sha256: str | None = None
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        # From Python, a Path and a number are accepted. The run may be resumed from another folder.
        if self.weights not in (None, IMAGENET):
            object.__setattr__(self, "weights", str(Path(str(self.weights)).expanduser().absolute()))
        if self.freeze is not None:
            object.__setattr__(self, "freeze", str(self.freeze))
        if self.recipe_sha256 is None:
            object.__setattr__(self, "recipe", FORMER_RECIPES.get(self.recipe, self.recipe))
        for name, declaration in declared(Settings).items():
            declaration.check(getattr(self, name))
        if self.augment is not None:
            # Normalize how the augmentation is written.
            operations = parse_augmentation(self.augment).items()
            words = [":".join([name, *(f"{value:g}" for value in values)]) for name, values in operations]
            object.__setattr__(self, "augment", ",".join(words) or "none")
        if self.warmup is not None and self.warmup > self.epochs:
            raise UsageError(
                f"--warmup {self.warmup} is out of range. Expected a number from 0 to --epochs "
                f"({self.epochs})."
            )
        if self.unfreeze_after is not None and (self.freeze is None or self.unfreeze_after >= self.epochs):
            raise UsageError(
                f"--unfreeze-after {self.unfreeze_after} needs --freeze and more --epochs than {self.epochs}."
            )
        if self.schedule == "plateau" and self.warmup is not None:
            raise UsageError("--warmup cannot be combined with --schedule plateau. Leave one of them out.")
        plateau = ["--schedule plateau"] if self.schedule == "plateau" else []
        selecting = [
            f"{declaration.option} {value}" if declaration.choices else declaration.option
            for name, declaration in declared(Settings).items()
            if declaration.needs_holdout and (value := getattr(self, name)) != declaration.default
        ]
        if self.validation == "test":
            selecting = plateau + selecting
        if selecting and self.validation != "holdout":
            raise UsageError(
                f"{selecting[0]} needs --validation holdout. It selects by validation accuracy, which would "
                "make the accuracy on those images too optimistic."
            )
        if self.validate == "end" and (plateau or selecting):
            raise UsageError(
                f"{(plateau + selecting)[0]} needs the validation accuracy of each epoch. "
                "Leave out --validate end."
            )

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


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """How a run executes. No option changes what it computes; each resume may use different values.

    Attributes:
        callbacks: Keras callbacks, called at epochs and between chunks of steps.
        reporter: receives progress; None prints it.
        should_stop: called between chunks of steps; True saves and stops.
        end_after: epochs after which training ends; the schedule still spans all epochs. None trains all.
        verbose: show TensorFlow's own messages.
        side_by_side: number of runs that train in one program, including this one.

    Raises:
        UsageError: a value is out of its range.
    """

    checkpoint_every: float = setting(
        60.0, above=0, seconds=True, metavar="TIME", help="Time between checkpoints within an epoch."
    )
    time_limit: float | None = setting(
        None, above=0, seconds=True, metavar="TIME", in_sweep=False,
        help="Stop after the last epoch that fits into this time, such as 90s, 10m or 2h.",
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
    """Raise UsageError, with the choices and the nearest match, unless `value` is one of the choices.

    Args:
        name: the option's name, with or without dashes.
        value: the received value.
        choices: the allowed values.
        aliases: other tools' names, and the choice that each stands for.
    """
    if value in choices:
        return
    suggestion = (aliases or {}).get(str(value)) or next(
        iter(difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)), None
    )
    hint = f" Did you mean {suggestion!r}?" if suggestion else ""
    raise UsageError(f"{option_name(name)} {value!r} is invalid. Choose from {', '.join(choices)}.{hint}")


def parse_augmentation(text: str) -> dict[str, tuple[Any, ...]]:
    """The arguments of each operation of --augment, in the order of `AUGMENTATIONS`; empty for `none`.

    Args:
        text: operations joined by `,`, or by `+`, because `sweep --set` separates values by commas.

    Raises:
        UsageError: an operation is unknown or repeated, or an argument is missing or out of range.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for part in [] if text.strip() == "none" else re.split("[,+]", text):
        name, *words = part.strip().split(":")
        try:
            ranges = AUGMENTATIONS[name]
            values = tuple(kind(word) for (kind, _, _), word in zip(ranges, words, strict=True))
            inside = (low <= value <= high for (_, low, high), value in zip(ranges, values, strict=True))
            if name in found or not all(inside):
                raise ValueError
        except (KeyError, ValueError):
            forms = (
                ":".join([operation, *(f"{low:g}..{high:g}" for _, low, high in ranges)])
                for operation, ranges in AUGMENTATIONS.items()
            )
            raise UsageError(
                f"--augment {text!r} is invalid at {part!r}. Expected none, or operations joined by commas, "
                f"such as crop:4,flip. Each may occur once: {', '.join(forms)}."
            ) from None
        found[name] = values
    return {name: found[name] for name in AUGMENTATIONS if name in found}


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
    """The command-line options equivalent to these arguments of `train`.

    Skips None, and fields of `RuntimeOptions` that have no option.
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
