"""What the loop computes otherwise than Keras comes to the same, and can be lowered for a GPU."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import run_python

from cifar_trainer.recipes import get_recipe
from cifar_trainer.training.layers import (
    KernelVariants,
    choose_variants,
    max_pool,
    replaced_layers,
    statistics_momentum,
    summed_loss,
)
from cifar_trainer.training.loop import StepLoop, epoch_order

#: Every layer as Keras computes it.
KERAS = KernelVariants()


def learnable(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a pattern for each class, under noise."""
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 160, (10, 8, 8, 3)), np.ones((1, 4, 4, 1)))
    labels = draw.integers(0, 10, count).astype(np.uint8)
    return (draw.integers(0, 96, (count, 32, 32, 3)) + patterns[labels]).astype(np.uint8), labels


def loop_of(steps: int, variants: KernelVariants, recipe_name: str) -> StepLoop:
    """A loop over so many steps of 64 images."""
    keras.utils.set_random_seed(1)
    recipe = get_recipe(recipe_name)
    images, labels = learnable(64 * steps)
    model = recipe.build_model((32, 32, 3), 10)
    # Of a long run, so that schedules are at their beginning.
    optimizer = recipe.build_optimizer(recipe.learning_rate, 1000)
    optimizer.build(model.trainable_variables)
    loop = StepLoop(recipe, model, optimizer, images, labels, batch_size=64, seed=0, variants=variants)
    loop.set_order(epoch_order(0, 0, len(labels)))
    return loop


def normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def test_the_first_steps_statistics_replace_the_initial_ones_and_those_of_20_classify_as_new_ones() -> None:
    loop = loop_of(20, KERAS, "regularized")
    model = loop.model
    loop.run(0, 1, 0)
    assert max(np.abs(layer.moving_variance.numpy() - 1).min() for layer in normalizations(model)) > 0.1
    loop.run(1, 19, 1)
    # oneDNN keeps the memory of the largest batch: 0.6 GB for 1,000 images.
    images, labels = learnable(200)

    def accuracy() -> float:
        return float((model(images, training=False).numpy().argmax(1) == labels).mean())

    found = accuracy()
    for layer in normalizations(model):
        layer.momentum = 0.0
    model(images, training=True)
    assert found > accuracy() - 0.05


def test_after_many_steps_the_momentum_is_the_layers_own() -> None:
    momenta = [float(statistics_momentum(0.99, tf.constant(step))) for step in (0, 1, 9, 90, 900, 10**6)]
    np.testing.assert_allclose(momenta, [0, 0.1, 0.5, 90 / 99, 0.99, 0.99], rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "center", "precision"),
    [
        (True, True, "float32"),
        (False, True, "float32"),
        (True, False, "float32"),
        (True, True, "mixed_bfloat16"),
    ],
)
def test_batch_normalization_as_one_operation_is_keras_batch_normalization(
    scale: bool, center: bool, precision: str
) -> None:
    draw = np.random.default_rng(0)
    images = tf.constant(draw.normal(3, 2, (6, 5, 5, 4)), tf.float32)
    upstream = tf.constant(draw.normal(0, 1, images.shape), tf.float32)

    def normalized(variants: KernelVariants) -> dict[str, np.ndarray]:
        layer = keras.layers.BatchNormalization(scale=scale, center=center, dtype=precision)
        model = keras.Sequential([keras.Input((5, 5, 4)), layer])
        model.set_weights([0.5 + np.arange(weight.shape[0]) / 4 for weight in model.weights])
        with replaced_layers(model, variants, tf.constant(20)), tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images, training=True)
        variables = [images, *(weight.value for weight in model.trainable_weights)]
        gradients = tape.gradient(outputs, variables, output_gradients=tf.cast(upstream, outputs.dtype))
        statistics = {"mean": layer.moving_mean.numpy(), "variance": layer.moving_variance.numpy()}
        computed = {"outputs": outputs, **{str(i): each for i, each in enumerate(gradients)}}
        return {**statistics, **{name: tf.cast(each, tf.float32).numpy() for name, each in computed.items()}}

    plain, fused = normalized(KERAS), normalized(KernelVariants(fused=True))
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 2**-7, "atol": 0.02}
    for name, expected in plain.items():
        np.testing.assert_allclose(fused[name], expected, err_msg=name, **tolerance)


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_fused_gelu_is_that_of_keras(precision: str) -> None:
    images = tf.constant(np.linspace(-6, 6, 200).reshape(40, 5), tf.float32)
    layer = keras.layers.Dense(5, "gelu", kernel_initializer="identity", dtype=precision)
    model = keras.Sequential([keras.Input((5,)), layer])

    def computed(variants: KernelVariants) -> list[np.ndarray]:
        with replaced_layers(model, variants, tf.constant(0)), tf.GradientTape() as tape:
            tape.watch(images)
            outputs = tf.cast(model(images, training=True), tf.float32)
        gradients = tape.gradient(outputs, [images, layer.kernel.value])
        return [outputs.numpy(), *(each.numpy() for each in gradients)]

    tolerance = {"atol": 1e-5} if precision == "float32" else {"rtol": 2**-5, "atol": 0.02}
    for fused, plain in zip(computed(KernelVariants(fused=True)), computed(KERAS), strict=True):
        np.testing.assert_allclose(fused, plain, **tolerance)


@pytest.mark.parametrize(
    ("recipe", "kind", "count", "replaced"),
    [("regularized", "FusedBatchNormV3", 3, "Rsqrt"), ("fast94", "PartitionedCall", 7, "Erf")],
)
def test_on_a_cpu_batch_normalization_and_gelu_are_one_operation(
    recipe: str, kind: str, count: int, replaced: str
) -> None:
    model = get_recipe(recipe).build_model((32, 32, 3), 10)
    variants = choose_variants(model, 64, gpu=False, conv="auto")

    @tf.function
    def forward(images: tf.Tensor) -> tf.Tensor:
        with replaced_layers(model, variants, tf.constant(0)):
            return model(images, training=True)

    graph = forward.get_concrete_function(tf.TensorSpec((64, 32, 32, 3), tf.uint8)).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert (kinds.count(kind), kinds.count(replaced)) == (count, 0)


def test_a_traced_network_keeps_its_layers_own_settings() -> None:
    loop = loop_of(1, KernelVariants(scatter_free=True, matmul=True), "regularized")
    loop.run(0, 1, 0)
    model = loop.model
    assert model.get_layer("norm1").momentum == 0.99
    assert "call" not in vars(model.get_layer("conv1"))


@pytest.mark.parametrize("size", [6, 7])
def test_own_max_pooling_and_its_gradient_are_tensorflows_to_the_bit(size: int) -> None:
    """With ties: of equal values the first has the gradient."""
    draw = np.random.default_rng(0)
    images = tf.constant(draw.integers(0, 3, (4, size, size, 5)).astype(np.float32))
    upstream = tf.constant(draw.normal(size=(4, size // 2, size // 2, 5)).astype(np.float32))
    found = []
    for pool in (max_pool, lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID")):
        with tf.GradientTape() as tape:
            tape.watch(images)
            pooled = pool(images)
        found.append((pooled.numpy(), tape.gradient(pooled, images, upstream).numpy()))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_the_loss_without_a_scatter_is_keras_loss_weights_and_all() -> None:
    draw = np.random.default_rng(0)
    labels, logits = draw.integers(0, 10, 6).astype(np.uint8), draw.normal(size=(6, 10)).astype(np.float32)
    weights = tf.constant([1.0, 1, 1, 1, 0, 0])
    ours, plain = (
        summed_loss(keras.losses.SparseCategoricalCrossentropy(from_logits=True), variants)
        for variants in (KernelVariants(scatter_free=True), KernelVariants())
    )
    np.testing.assert_allclose(ours(labels, logits, weights), plain(labels, logits, weights), rtol=1e-6)


@pytest.mark.parametrize("recipe_name", ["tutorial", "regularized"])
def test_the_losses_in_a_gpus_forms_are_those_in_keras_forms(recipe_name: str) -> None:
    gpu = KernelVariants(scatter_free=True, matmul=True)
    plain, ours = (loop_of(5, form, recipe_name).run(0, 5, 0)[0].losses for form in (KERAS, gpu))
    np.testing.assert_allclose(ours, plain, atol=2e-3)


@pytest.mark.parametrize(
    ("gpu", "batch_size", "conv", "matmul"),
    [
        (False, 32, "auto", False),
        (True, 32, "auto", True),
        (True, 4096, "auto", False),
        (True, 4096, "matmul", True),
        (True, 32, "cudnn", False),
    ],
)
def test_small_convolutions_on_a_gpu_are_matrix_products_unless_told_otherwise(
    gpu: bool, batch_size: int, conv: str, matmul: bool
) -> None:
    model = get_recipe("tutorial").build_model((32, 32, 3), 10)
    assert choose_variants(model, batch_size, gpu=gpu, conv=conv).matmul == matmul


LOWER = """
import sys
import tensorflow as tf, keras
from cifar_trainer.recipes import get_recipe
from cifar_trainer.training.layers import choose_variants, replaced_layers, summed_loss

tf.config.experimental.enable_op_determinism()
keras.utils.set_random_seed(0)
recipe = get_recipe(sys.argv[1])
model = recipe.build_model((32, 32, 3), 10)
variants = choose_variants(model, 32, gpu=True, conv="auto")
loss_of = summed_loss(recipe.loss(), variants)
trainable = [v.numpy() for v in model.trainable_variables]
others = [tf.constant(v.numpy()) for v in model.non_trainable_variables]

@tf.function(jit_compile=True, autograph=False)
def gradients(images, labels, *weights):
    with tf.GradientTape() as tape:
        tape.watch(weights)
        with replaced_layers(model, variants, tf.constant(5)):
            logits, _ = model.stateless_call(list(weights), others, images, training=True)
        loss = loss_of(labels, logits, None)
    return loss, tape.gradient(loss, weights)

images, labels = tf.zeros([32, 32, 32, 3], tf.uint8), tf.zeros([32], tf.uint8)
ir = gradients.experimental_get_compiler_ir(images, labels, *map(tf.constant, trainable))
print("scatter" in ir(stage="hlo", platform_name="GPU"))
"""


@pytest.mark.parametrize("recipe_name", ["tutorial", "regularized", "resnet18", "vit", "fast94"])
def test_a_step_can_be_lowered_for_a_gpu_under_determinism_and_holds_no_scatter(recipe_name: str) -> None:
    """In a process of its own: determinism holds for a whole process. No GPU is needed."""
    done = run_python(["-c", LOWER, recipe_name])
    assert done.stdout.split()[-1:] == ["False"], done.stderr[-2000:]
