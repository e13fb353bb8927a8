"""The network of `tutorial` with common regularization.

Batch normalization after each convolution (Ioffe & Szegedy 2015), dropout before the head (Srivastava et al.
2014), flips and crops with four pixels of padding (as in He et al. 2016, section 4.2), and Adam with a cosine
schedule (Loshchilov & Hutter 2017, without restarts).

Reached 80.97, 81.07 and 80.74 % on CIFAR-10's test set after 20 epochs (seeds 0 to 2, float32, two threads
of an AMD EPYC).
"""

from typing import TYPE_CHECKING

from cifar_trainer.recipes.recipe import Expected, Recipe, augmentation, with_cosine

if TYPE_CHECKING:
    import keras


def build_model(image_shape: tuple[int, int, int], classes: int) -> "keras.Model":
    """Convolutions without bias, each with batch normalization; dropout before the logits."""
    import keras
    from keras import layers

    def block(filters: int, index: int) -> list[keras.layers.Layer]:
        return [
            layers.Conv2D(filters, 3, use_bias=False, name=f"conv{index}"),
            layers.BatchNormalization(name=f"norm{index}"),
            layers.ReLU(name=f"relu{index}"),
        ]

    return keras.Sequential(
        [
            keras.Input(image_shape, dtype="uint8", name="images"),
            layers.Rescaling(1 / 255, name="scale"),
            *block(32, 1),
            layers.MaxPooling2D(2, name="pool1"),
            *block(64, 2),
            layers.MaxPooling2D(2, name="pool2"),
            *block(64, 3),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation="relu", name="dense"),
            layers.Dropout(0.2, name="dropout"),
            layers.Dense(classes, dtype="float32", name="logits"),
        ],
        name="regularized",
    )


REGULARIZED = Recipe(
    name="regularized",
    summary="the same with batch normalization, dropout, flips, crops and a cosine schedule",
    epochs=20,
    batch_size=64,
    learning_rate=0.002,
    build_model=build_model,
    build_optimizer=with_cosine("Adam"),
    augment=augmentation("crop:4,flip"),
    stackable=True,
    # Seeds 0 to 2 in float32 on two threads of an AMD EPYC.
    expected=Expected(accuracy=0.8093, n=3, low=0.8074, high=0.8107),
)
