"""ResNet-18 for small images, with standard training.

The network of He et al. 2016 (figure 5 and table 1), with the first layer that is usual for CIFAR: a 3×3
convolution with stride 1, without pooling. Trained with Nesterov momentum, weight decay of 5e-4 on every
weight, a cosine schedule, and the flips and crops of `regularized`. Others report 95 to 96 % after 30 to 200
epochs; it was not measured here.
"""

from typing import TYPE_CHECKING

from cifar_trainer.recipes.recipe import Recipe, augmentation, with_cosine

if TYPE_CHECKING:
    import keras

#: Filters of the four stages, two blocks each.
FILTERS = (64, 128, 256, 512)


def build_model(image_shape: tuple[int, int, int], classes: int) -> "keras.Model":
    """Four stages of two basic blocks; each stage except the first halves height and width."""
    import keras
    from keras import layers

    def convolve(x: keras.KerasTensor, filters: int, size: int, strides: int, name: str) -> keras.KerasTensor:
        # Pad both sides equally, as in PyTorch: with a stride of 2, "same" would pad only the end.
        if size == 3:
            x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        x = layers.Conv2D(
            filters, size, strides, use_bias=False, kernel_initializer="he_normal", name=f"{name}_conv"
        )(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)

    inputs = keras.Input(image_shape, dtype="uint8", name="images")
    x = layers.Rescaling(1 / 127.5, -1, name="scale")(inputs)
    x = layers.ReLU(name="stem_relu")(convolve(x, FILTERS[0], 3, 1, "stem"))
    for stage, filters in enumerate(FILTERS, 1):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            strides = 2 if stage > 1 and block == 1 else 1
            shortcut = x
            x = layers.ReLU(name=f"{name}_relu1")(convolve(x, filters, 3, strides, f"{name}_1"))
            x = convolve(x, filters, 3, 1, f"{name}_2")
            if strides == 2:
                shortcut = convolve(shortcut, filters, 1, strides, f"{name}_shortcut")
            x = layers.Add(name=f"{name}_add")([x, shortcut])
            x = layers.ReLU(name=f"{name}_relu2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    outputs = layers.Dense(classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name="resnet18")


RESNET18 = Recipe(
    name="resnet18",
    summary="ResNet-18 for small images: Nesterov, weight decay, flips, crops, a cosine schedule",
    epochs=30,
    batch_size=128,
    learning_rate=0.1,
    build_model=build_model,
    build_optimizer=with_cosine("Nesterov", momentum=0.9, decay=5e-4),
    augment=augmentation("crop:4,flip"),
)
