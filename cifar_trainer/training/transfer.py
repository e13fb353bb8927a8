"""Transfer learning: start a run from trained weights.

Importing this does not import TensorFlow.
"""

import dataclasses
import itertools
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.recipes import RECIPES
from cifar_trainer.run import Parent, Run
from cifar_trainer.settings import ALL_BUT_HEAD, IMAGENET, Settings, option_name

if TYPE_CHECKING:
    import keras


def absolute(weights: str) -> str:
    """The value of `--weights` as config.json records it: an absolute path, or a reserved word."""
    return weights if weights == IMAGENET else str(Path(weights).expanduser().absolute())


def find_weights(weights: str) -> tuple[Path, Run | None]:
    """The Keras file that `--weights` names, and its run; the run is None for any other file.

    Raises:
        UsageError: it does not exist, or is neither a run's folder nor a Keras file.
        RunError: the run is not finished, or this version does not know its recipe.
    """
    path = Path(weights).expanduser()
    expected = "Expected a finished run's folder, or a .keras file."
    if not path.exists():
        raise UsageError(f"--weights {path} does not exist. {expected}")
    run = Run(path.parent) if path.name == Run(path).model.name else Run(path)
    if run.config.is_file():
        run.check_model()
        return run.model, run
    if not zipfile.is_zipfile(path):
        what = "a file of another format" if path.is_file() else "a folder without a config.json"
        raise UsageError(f"--weights {path} is {what}. {expected}")
    return path, None


def check_transfer(config: Settings) -> None:
    """Check, before anything starts, that a run's weights exist and that the settings fit together.

    Raises:
        UsageError: `freeze` or `unfreeze_after` lacks the setting that it needs.
        UsageError, RunError: as in `find_weights`.
    """
    for name, needed in (("freeze", "weights"), ("unfreeze_after", "freeze")):
        if getattr(config, name) is not None and getattr(config, needed) is None:
            raise UsageError(f"{option_name(name)} {getattr(config, name)} needs {option_name(needed)}.")
    if config.weights == IMAGENET:
        names = [name for name, recipe in RECIPES.items() if recipe.pretrained is not None]
        if config.recipe_sha256 is not None or config.recipe not in names:
            raise UsageError(
                f"--weights {IMAGENET} is not available for the recipe {config.recipe}. Choose --recipe from "
                f"{', '.join(names)}."
            )
    elif config.weights is not None:
        find_weights(config.weights)


def ancestors(run: Run) -> list[Run]:
    """The chain of runs that a run started from, oldest first.

    Raises:
        RunError: one of them is missing or damaged, or its weights have changed.
    """
    config = run.read_config()
    try:
        parent = None if config.weights in (None, IMAGENET) else find_weights(config.weights)[1]
    except UsageError as error:
        raise RunError(f"{run.path} cannot be reproduced: {error}") from error
    if parent is None:
        return []
    sha256 = parent.read_result().weights_sha256
    if sha256 != config.weights_sha256:
        raise RunError(
            f"{run.path} started from the weights of {parent.path} with the SHA-256 {config.weights_sha256}, "
            f"but they now have {sha256}. Restore the original."
        )
    return [*ancestors(parent), parent]


@dataclasses.dataclass(frozen=True, eq=False)
class InitialWeights:
    """Trained weights that a new network starts from.

    Attributes:
        source: the value of `--weights`.
        model: the trained network, with or without its last layer.
        sha256: SHA-256 of its weights.
        parent: its recipe, data set and classes.
    """

    source: str
    model: "keras.Model"
    sha256: str
    parent: Parent

    def assign(self, model: "keras.Model", recipe: str, classes: tuple[str, ...]) -> str:
        """Copy the weights to `model`, layer by layer, in the order of the layers.

        The last layer keeps its own initial weights if the classes differ, or if `self.model` lacks it.

        Args:
            model: the new network.
            recipe: the name of its recipe.
            classes: names of its classes.

        Returns:
            A sentence that says what was copied.

        Raises:
            UsageError: a layer cannot take the weights; the message names it. `model` is then unusable.
        """
        ours, theirs = layers_with_weights(model), layers_with_weights(self.model)
        head, lacks_head = ours[-1], len(theirs) == len(ours) - 1
        new_head = lacks_head or (
            len(theirs) == len(ours)
            and (self.parent.classes not in (None, classes) or _shapes(theirs[-1]) != _shapes(head))
        )
        for layer, source in itertools.zip_longest(ours, theirs):
            if layer is head and new_head:
                continue
            if layer is None or source is None or _shapes(layer) != _shapes(source):
                raise UsageError(self._misfit(layer, source, model, recipe))
            for variable, value in zip(layer.weights, source.weights, strict=True):
                variable.assign(value)
        new = f" The last layer, {head.name}, is new, for {len(classes)} classes." if new_head else ""
        return f"Starting from the weights of {self.source} ({self.sha256[:12]}).{new}"

    def _misfit(
        self, layer: "keras.Layer | None", source: "keras.Layer | None", model: "keras.Model", recipe: str
    ) -> str:
        """Why the weights of a layer do not fit, and what to do."""
        theirs, ours = map(_describe, (source, layer))
        advice = "Choose weights of the same recipe, or another --recipe."
        there, here = self.model.input_shape, model.input_shape
        if there != here and layer is not None and source is not None and layer.name == source.name:
            advice = (
                f"This layer depends on the images' shape: {there[1:]} there, {here[1:]} here. "
                "Prepare images of that shape, or use a recipe with global pooling (resnet18) for both."
            )
        return f"--weights {self.source} has {theirs}, but --recipe {recipe} has {ours}. {advice}"


def layers_with_weights(model: "keras.Model") -> "list[keras.Layer]":
    """The layers that have weights, in the order of `model.weights`; nested models are flattened."""
    import keras

    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += layers_with_weights(layer)
        elif layer.weights:
            found.append(layer)
    return found


def frozen_layers(model: "keras.Model", freeze: str | None) -> "list[keras.Layer]":
    """The layers that `--freeze` names, in order; empty for None.

    Raises:
        UsageError: the network lacks this layer, or no layer would be left to train.
    """
    if freeze is None:
        return []
    layers = layers_with_weights(model)
    names = [layer.name for layer in layers]
    counts = {ALL_BUT_HEAD: len(layers) - 1, **{name: i for i, name in enumerate(names, 1)}}
    count = int(freeze) if freeze.isdecimal() else counts.get(freeze, 0)
    if not 0 < count < len(layers):
        raise UsageError(
            f"--freeze {freeze} is invalid for this network. Expected a number from 1 to {len(layers) - 1}, "
            f"{ALL_BUT_HEAD}, or one of its layers: {', '.join(names[:-1])}."
        )
    return layers[:count]


def _shapes(layer: "keras.Layer") -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in layer.weights]


def _describe(layer: "keras.Layer | None") -> str:
    if layer is None:
        return "no further layer"
    shapes = ", ".join(f"{variable.name} {tuple(variable.shape)}" for variable in layer.weights)
    return f"the layer {layer.name} with {shapes}"


def load_weights(
    config: Settings, image_shape: tuple[int, int, int], *, offline: bool = False
) -> InitialWeights:
    """Load the weights that a run starts from. Start TensorFlow first.

    Args:
        config: the run's settings.
        image_shape: height, width and channels of its images.
        offline: never download.

    Raises:
        DataNotFoundError: the weights from ImageNet cannot be downloaded.
        UsageError: `config.weights` does not exist, or is not a run or a Keras file.
        RunError: the weights do not match `config.weights_sha256`, or the file is damaged.
    """
    from cifar_trainer.model import CLASSES_MEMBER, load_model, weights_sha256

    assert config.weights is not None, "the run starts from trained weights"
    if config.weights == IMAGENET:
        pretrained = RECIPES[config.recipe].pretrained
        assert pretrained is not None, "check_transfer was called"
        model, run = pretrained(image_shape, offline=offline), None
    else:
        path, run = find_weights(config.weights)
        model = load_model(path)
    sha256 = weights_sha256(model)
    if config.weights == IMAGENET:
        parent = Parent(dataset=IMAGENET)
    elif run is not None:
        run.check_weights(run.read_result(), sha256)
        settings, data = run.read_config(), run.read_data()
        parent = Parent(
            recipe=settings.recipe,
            recipe_sha256=settings.recipe_sha256,
            dataset=data.name,
            train_fingerprint=data.train.fingerprint,
            classes=data.classes,
        )
    else:
        with zipfile.ZipFile(path) as archive:
            is_export = CLASSES_MEMBER in archive.namelist()
            classes = tuple(json.loads(archive.read(CLASSES_MEMBER))) if is_export else None
        parent = Parent(classes=classes)
    if config.weights_sha256 not in (None, sha256):
        raise RunError(
            f"--weights {config.weights} has weights with the SHA-256 {sha256}, expected "
            f"{config.weights_sha256}: it has changed, or is the wrong one. Restore the original."
        )
    return InitialWeights(config.weights, model, sha256, parent)
