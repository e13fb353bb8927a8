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
import functools
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cifar_trainer.errors import DataNotFoundError, UsageError
from cifar_trainer.recipes.recipe import Recipe, augmentation, smoothed_cross_entropy, with_cosine

if TYPE_CHECKING:
    import keras

#: The smallest height and width that the networks accept.
MIN_SIZE = 32


def build_base(
    name: str, image_shape: tuple[int, int, int], weights: str | None = None, *, network: str
) -> "keras.Model":
    """A network without its last layer. It scales the pixels, and repeats greyscale as RGB.

    Args:
        name: the recipe's name, for error messages.
        image_shape: height, width and channels.
        weights: `imagenet`, or None for random weights.
        network: the network's function in `keras.applications`.

    Raises:
        UsageError: the images are too small.
    """
    import keras
    from keras import layers

    height, width, channels = image_shape
    if min(height, width) < MIN_SIZE:
        raise UsageError(
            f"--recipe {name} needs images of at least {MIN_SIZE}×{MIN_SIZE} pixels, but these have "
            f"{width}×{height}. Choose another recipe, or prepare your own classes with a larger --size."
        )
    inputs = keras.Input(image_shape, dtype="uint8", name="images")
    pixels = inputs if channels == 3 else layers.Concatenate(name="rgb")([inputs] * 3)
    model: keras.Model = getattr(keras.applications, network)(
        input_tensor=pixels, input_shape=(height, width, 3), include_top=False, pooling="avg", weights=weights
    )
    return model


def build_model(
    image_shape: tuple[int, int, int], classes: int, *, name: str, network: str, dropout: float
) -> "keras.Model":
    """A network with random weights, global average pooling, dropout and a last layer of logits."""
    import keras
    from keras import layers

    base = build_base(name, image_shape, network=network)
    x = layers.Dropout(dropout, name="dropout")(base.output) if dropout else base.output
    outputs = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(base.inputs[0], outputs, name=name.replace("-", "_"))


def pretrained(image_shape: tuple[int, int, int], *, offline: bool, name: str, network: str) -> "keras.Model":
    """A network without its last layer, with its ImageNet weights from Keras's cache or its server.

    Raises:
        DataNotFoundError: the weights are not in Keras's cache and cannot be downloaded.
        UsageError: the images are too small.
    """
    from keras.src.utils import file_utils

    get_file = file_utils.get_file
    file_utils.get_file = functools.partial(_get_file, name, offline)
    try:
        with warnings.catch_warnings():
            # Keras warns that the weights are for images of 224×224; other sizes work, too.
            warnings.simplefilter("ignore", UserWarning)
            return build_base(name, image_shape, "imagenet", network=network)
    finally:
        file_utils.get_file = get_file


def _get_file(recipe: str, offline: bool, name: str, url: str, *, cache_subdir: str, file_hash: str) -> str:
    """Keras's `get_file`, with an error that says how to provide the file if it cannot be downloaded."""
    import keras
    from keras.src.backend.config import keras_home
    from keras.src.utils.file_utils import validate_file

    path = Path(keras_home()) / cache_subdir / name
    # Keras deletes a damaged file if it cannot be downloaded again.
    state = "damaged" if path.is_file() else "not"
    reason = "--offline forbids downloading them"
    if not offline or (path.is_file() and validate_file(path, file_hash)):
        try:
            # Keras prints its progress.
            with contextlib.redirect_stdout(sys.stderr):
                return str(keras.utils.get_file(name, url, cache_subdir=cache_subdir, file_hash=file_hash))
        except Exception as error:  # Keras raises plain Exceptions.
            reason = f"downloading them failed ({error})"
    raise DataNotFoundError(
        f"The ImageNet weights of {recipe} are {state} in {path}, and {reason}. Download {url} on another "
        f"machine and save it there; its hash is {file_hash}."
    )


def _recipe(name: str, network: str, summary: str, *, dropout: float = 0.0, **method: Any) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        batch_size=32,
        build_model=functools.partial(build_model, name=name, network=network, dropout=dropout),
        augment=augmentation("crop:4,flip"),
        pretrained=functools.partial(pretrained, name=name, network=network),
        **method,
    )


#: Swish has activations of a wide range, and 8 bits are too few for them: TensorFlow's blog of 2020-03-16 on
#: EfficientNet-Lite reports a drop from 75 % to 46 %, tensorflow/models#11274 an unusable MobileNetV3-Small.
_NOT_INT8 = ("litert-int8",)
MOBILENET_V3_SMALL = _recipe(
    "mobilenet-v3-small", "MobileNetV3Small",
    "MobileNetV3-Small, to fine-tune from ImageNet: momentum, a cosine schedule",
    dropout=0.2, epochs=20, learning_rate=0.01, build_optimizer=with_cosine("SGD", momentum=0.9),
    refused_formats=_NOT_INT8,
)  # fmt: skip
EFFICIENTNET_V2_B0 = _recipe(
    "efficientnet-v2-b0", "EfficientNetV2B0",
    "EfficientNetV2-B0, to fine-tune from ImageNet: RMSProp, a cosine schedule",
    dropout=0.2, epochs=20, learning_rate=0.00025,
    build_optimizer=with_cosine("RMSprop", rho=0.9, momentum=0.9),
    refused_formats=_NOT_INT8,
)  # fmt: skip
CONVNEXT_TINY = _recipe(
    "convnext-tiny", "ConvNeXtTiny",
    "ConvNeXt-T, to fine-tune from ImageNet: AdamW, label smoothing, a cosine schedule",
    epochs=30, learning_rate=0.00005, build_optimizer=with_cosine("AdamW", weight_decay=1e-8),
    loss=smoothed_cross_entropy(0.1), splittable=True,
)  # fmt: skip
