"""Three networks of `keras.applications`, for training from ImageNet's weights or from scratch.

The hyperparameters are published ones for fine-tuning, except the batch size, which is 32 to save memory:

- `mobilenet-v3-small` (Howard et al. 2019): momentum of 0.9 and a learning rate of 0.01, the usual values
  (Li et al. 2020, arXiv 2002.11770, section 1), with a cosine schedule.
- `efficientnet-v2-b0` (Tan & Le 2021, arXiv 2104.00298): RMSProp with a decay and a momentum of 0.9, a cosine
  schedule and no weight decay (sections 4.1 and 4.3). Their rate of 0.001 for 512 images becomes 0.00025 by
  the square-root rule.
- `convnext-tiny` (Liu et al. 2022, arXiv 2201.03545, appendix A.2): AdamW with a rate of 5e-5, weight decay
  of 1e-8, a cosine schedule and label smoothing of 0.1. Without their layer-wise decay of the rate.

All use the flips and crops of `regularized`. No accuracy was measured.
"""

import contextlib
import dataclasses
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer.errors import DataNotFoundError, UsageError
from cifar_trainer.recipes.recipe import Recipe
from cifar_trainer.recipes.regularized import augment

if TYPE_CHECKING:
    import keras

#: The smallest height and width that the networks accept.
MIN_SIZE = 32
_BASE_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    Attributes:
        recipe: the recipe's name.
        function: its function in `keras.applications`.
        module: its module there.
        weights: the key of its weights in the module's table of published hashes.
        file: the file with its ImageNet weights, without the last layer.
        dropout: rate of dropout before the last layer.
    """

    recipe: str
    function: str
    module: str
    weights: str
    file: str
    dropout: float

    def build_model(self, image_shape: tuple[int, int, int], classes: int) -> "keras.Model":
        """The network with random weights, global average pooling, dropout and a last layer of logits."""
        import keras
        from keras import layers

        base = self.build_base(image_shape)
        x = layers.Dropout(self.dropout, name="dropout")(base.output) if self.dropout else base.output
        outputs = layers.Dense(classes, dtype="float32", name="logits")(x)
        return keras.Model(base.inputs[0], outputs, name=self.recipe.replace("-", "_"))

    def build_base(self, image_shape: tuple[int, int, int], weights: Path | None = None) -> "keras.Model":
        """The network without its last layer. It scales the pixels, and repeats greyscale as RGB.

        Raises:
            UsageError: the images are too small.
        """
        import keras
        from keras import layers

        height, width, channels = image_shape
        if min(height, width) < MIN_SIZE:
            raise UsageError(
                f"--recipe {self.recipe} needs images of at least {MIN_SIZE}×{MIN_SIZE} pixels, these have "
                f"{width}×{height}. Choose another recipe, or prepare your own classes with a larger --size."
            )
        inputs = keras.Input(image_shape, dtype="uint8", name="images")
        pixels = inputs if channels == 3 else layers.Concatenate(name="rgb")([inputs] * 3)
        model: keras.Model = getattr(keras.applications, self.function)(
            input_tensor=pixels, input_shape=(height, width, 3), include_top=False, pooling="avg",
            weights=weights if weights is None else str(weights),
        )  # fmt: skip
        return model

    def pretrained(self, image_shape: tuple[int, int, int], *, offline: bool) -> "keras.Model":
        """The network without its last layer, with its ImageNet weights.

        Raises:
            DataNotFoundError: the weights are not in Keras's cache and cannot be downloaded.
            UsageError: the images are too small.
        """
        return self.build_base(image_shape, self.find_weights(offline=offline))

    def find_weights(self, *, offline: bool) -> Path:
        """The file of the ImageNet weights in Keras's cache, downloaded if needed, verified by its hash.

        Raises:
            DataNotFoundError: it is missing or damaged, and cannot be downloaded.
        """
        import keras
        from keras.src.backend.config import keras_home
        from keras.src.utils.file_utils import validate_file

        table = importlib.import_module(f"keras.src.applications.{self.module}").WEIGHTS_HASHES
        sha, url = table[self.weights][1], f"{_BASE_URL}{self.module}/{self.file}"
        path = Path(keras_home()) / "models" / self.file
        if path.is_file() and validate_file(str(path), sha):
            return path
        if offline:
            reason = "--offline forbids downloading them"
        else:
            try:
                # Keras prints its progress.
                with contextlib.redirect_stdout(sys.stderr):
                    return Path(keras.utils.get_file(self.file, url, cache_subdir="models", file_hash=sha))
            except Exception as error:  # Keras raises plain Exceptions.
                reason = f"downloading them failed ({error})"
        kind = "SHA-256" if len(sha) == 64 else "MD5"
        state = f"are damaged in {path}" if path.is_file() else f"are not in {path}"
        raise DataNotFoundError(
            f"The ImageNet weights of {self.recipe} {state}, and {reason}. Download {url} on another machine "
            f"and save it there; its {kind} is {sha}."
        )


def _sgd(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """Momentum of 0.9 with a cosine schedule to 0."""
    import keras

    return keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(learning_rate, total_steps), momentum=0.9
    )


def _rmsprop(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """RMSProp with a decay and a momentum of 0.9, and a cosine schedule to 0."""
    import keras

    return keras.optimizers.RMSprop(
        keras.optimizers.schedules.CosineDecay(learning_rate, total_steps), rho=0.9, momentum=0.9
    )


def _adamw(learning_rate: float, total_steps: int) -> "keras.optimizers.Optimizer":
    """AdamW with weight decay of 1e-8 and a cosine schedule to 0."""
    import keras

    return keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(learning_rate, total_steps), weight_decay=1e-8
    )


def _smoothed_loss() -> "keras.losses.Loss":
    from cifar_trainer.recipes.optimizers import SmoothedCrossEntropy

    return SmoothedCrossEntropy(0.1)


def _recipe(application: Application, summary: str, **method: Any) -> Recipe:
    return Recipe(
        name=application.recipe,
        summary=summary,
        batch_size=32,
        build_model=application.build_model,
        augment=augment,
        pretrained=application.pretrained,
        **method,
    )


MOBILENET_V3_SMALL = _recipe(
    Application(
        "mobilenet-v3-small", "MobileNetV3Small", "mobilenet_v3", "small_224_1.0_float",
        "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", dropout=0.2,
    ),
    "MobileNetV3-Small, to fine-tune from ImageNet: momentum, a cosine schedule",
    epochs=20, learning_rate=0.01, build_optimizer=_sgd,
)  # fmt: skip
EFFICIENTNET_V2_B0 = _recipe(
    Application(
        "efficientnet-v2-b0", "EfficientNetV2B0", "efficientnet_v2", "b0", "efficientnetv2-b0_notop.h5",
        dropout=0.2,
    ),
    "EfficientNetV2-B0, to fine-tune from ImageNet: RMSProp, a cosine schedule",
    epochs=20, learning_rate=0.00025, build_optimizer=_rmsprop,
)  # fmt: skip
CONVNEXT_TINY = _recipe(
    Application(
        "convnext-tiny", "ConvNeXtTiny", "convnext", "convnext_tiny", "convnext_tiny_notop.h5", dropout=0.0
    ),
    "ConvNeXt-T, to fine-tune from ImageNet: AdamW, label smoothing, a cosine schedule",
    epochs=30, learning_rate=0.00005, build_optimizer=_adamw, loss=_smoothed_loss, splittable=True,
)  # fmt: skip
