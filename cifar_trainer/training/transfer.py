"""Transfer learning: start a run from trained weights.

Importing this does not import TensorFlow.
"""

import dataclasses
import itertools
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer import files
from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.recipes import RECIPES
from cifar_trainer.run import Run
from cifar_trainer.settings import ALL_BUT_HEAD, IMAGENET, Settings

if TYPE_CHECKING:
    import keras


def find_weights(config: Settings) -> tuple[Path | None, Run | None]:
    """Find the Keras file with a run's initial weights, and the run that trained them.

    Without `--weights`, and with `--weights imagenet`, both are None. If the file is in no run's folder, the
    run is None.

    Raises:
        UsageError: `config.weights` is neither a run's folder nor a Keras file; or the recipe has no weights
            from ImageNet.
        RunError: the run is not finished, this version does not know its recipe, or its weights are not those
            of `config.weights_sha256`.
    """
    if config.weights == IMAGENET:
        names = [name for name, recipe in RECIPES.items() if recipe.pretrained is not None]
        if config.recipe_sha256 is not None or config.recipe not in names:
            raise UsageError(
                f"--weights {IMAGENET} is not available for the recipe {config.recipe}. Choose --recipe from "
                f"{', '.join(names)}."
            )
    if config.weights in (None, IMAGENET):
        return None, None
    path = Path(config.weights)
    run = Run(path.parent) if path.name == Run(path).model.name else Run(path)
    if run.config.is_file():
        run.check_model()
        _check_sha256(config, run.read_result().weights_sha256)
        return run.model, run
    if not zipfile.is_zipfile(path):
        state = "is something else" if path.exists() else "does not exist"
        raise UsageError(
            f"--weights {path} {state}. Expected a finished run's folder or a .keras file, which a run needs "
            "until its first checkpoint."
        )
    return path, None


def find_parent(run: Run) -> Run | None:
    """Find the run that trained a run's initial weights, or None. Its own parents are checked as well.

    Raises:
        RunError: a run of the chain is missing or damaged, or its weights have changed.
    """
    try:
        _, parent = find_weights(run.read_config())
    except UsageError as error:
        raise RunError(f"{run.path} cannot be reproduced: {error}") from error
    if parent is not None:
        find_parent(parent)
    return parent


def _check_sha256(config: Settings, sha256: str) -> None:
    if config.weights_sha256 not in (None, sha256):
        raise RunError(
            f"--weights {config.weights} has weights with the SHA-256 {sha256}, expected "
            f"{config.weights_sha256}: it has changed, or is the wrong one. Restore the original."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class InitialWeights:
    """Trained weights that a new network starts from.

    Attributes:
        source: the value of `--weights`.
        model: the trained network, with or without its last layer.
        sha256: SHA-256 of its weights.
        parent: config.json of the run that trained them; None if unknown.
    """

    source: str
    model: "keras.Model"
    sha256: str
    parent: dict[str, Any] | None = None

    def assign(self, model: "keras.Model", recipe: str, classes: tuple[str, ...]) -> str:
        """Copy the weights to `model`, layer by layer, in the order of the layers.

        The last layer keeps its own initial weights if the classes or its shapes differ.

        Args:
            model: the new network.
            recipe: the name of its recipe.
            classes: names of its classes.

        Returns:
            A sentence that says what was copied.

        Raises:
            UsageError: a layer cannot take the weights; the message names it. `model` is then unusable.
        """
        pairs = list(itertools.zip_longest(layers_with_weights(model), layers_with_weights(self.model)))
        last, theirs = pairs[-1]
        same_classes = self.parent is None or self.parent["data"]["classes"] == list(classes)
        is_new = last and not (same_classes and _shapes(last) == _shapes(theirs))
        for layer, source in pairs[:-1] if is_new else pairs:
            given, expected = _shapes(source), _shapes(layer)
            if given != expected:
                raise UsageError(
                    f"--weights {self.source}, for images of {self.model.input_shape[1:]}, has {given} for "
                    f"the layer {(layer or source).name}; --recipe {recipe}, for images of "
                    f"{model.input_shape[1:]}, expects {expected}. Choose weights of the same recipe. Only a "
                    "recipe with global pooling (resnet18) takes those for images of another shape."
                )
            layer.set_weights(source.get_weights())
        new = f" The last layer, {last.name}, is new, for {len(classes)} classes." if is_new else ""
        return f"Starting from the weights of {self.source} ({self.sha256[:12]}).{new}"


def _shapes(layer: "keras.Layer | None") -> list[tuple[int, ...]] | str:
    return "nothing" if layer is None else [tuple(weight.shape) for weight in layer.weights]


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
        RunError: the weights do not match `config.weights_sha256`, or the file is damaged.
        UsageError, RunError: as in `find_weights`.
    """
    from cifar_trainer.model import load_model, weights_sha256

    assert config.weights is not None, "the run starts from trained weights"
    path, run = find_weights(config)
    if path is None:
        pretrained = RECIPES[config.recipe].pretrained
        assert pretrained is not None, "find_weights checks it"
        model = pretrained(image_shape, offline=offline)
    else:
        model = load_model(path)
    sha256 = weights_sha256(model)
    _check_sha256(config, sha256)
    if run is None:
        return InitialWeights(config.weights, model, sha256)
    run.check_weights(run.read_result(), sha256)
    return InitialWeights(config.weights, model, sha256, files.read_json(run.config, dict[str, Any]))
