"""The compiled loop computes what plain Keras computes, step by step."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from cifar_trainer.recipes import RECIPES, Batch, get_recipe
from cifar_trainer.recipes.catalogue import count_flops
from cifar_trainer.recipes.optimizers import SmoothedCrossEntropy
from cifar_trainer.recipes.recipe import augmentation
from cifar_trainer.training.loop import (
    BLOCK,
    StepLoop,
    augmentation_seed,
    balanced_weights,
    epoch_order,
    layer_seeds,
    seed_states,
)

STEPS = 200
#: The largest difference of a loss that rounding explains, over the first 50 steps and over
#: all 200: both sides add the same float32 numbers in another order, and each step feeds the
#: difference back, with batch normalization more strongly (plain Keras against itself with the
#: batch in another order does the same). A mask, a picture or an order that is not the same
#: shows at the first step, in the first decimals.
BOUNDS = {"tutorial": (1e-5, 1e-5), "regularized": (1e-4, 2e-2)}
LEARNING_RATES = {"tutorial": 1e-3, "regularized": 1e-4, "normalizing": 1e-4}


def pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pattern of its own for each class, under noise: learned steadily, without a plateau.

    At a plateau's end training is chaotic: there plain Keras, too, would part from itself
    after a change in the last bit.
    """
    generator = np.random.default_rng(seed)
    patterns = np.kron(generator.integers(0, 160, (10, 8, 8, 3)), np.ones((1, 4, 4, 1)))
    labels = generator.integers(0, 10, count).astype(np.uint8)
    noise = generator.integers(0, 96, (count, 32, 32, 3))
    return (noise + patterns[labels]).astype(np.uint8), labels


def tiny(image_shape: tuple[int, int, int], classes: int, *more: keras.layers.Layer) -> keras.Model:
    """For claims about the loop. XLA never frees a program, and that of `regularized` has 115 MB."""
    return keras.Sequential(
        [keras.Input(image_shape, dtype="uint8", name="images"), keras.layers.Rescaling(1 / 255),
         keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv1"), keras.layers.Flatten(),
         *more, keras.layers.Dense(classes, dtype="float32", name="logits")]
    )  # fmt: skip


def dropping(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    return tiny(image_shape, classes, keras.layers.Dropout(0.2))


def normalizing(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    return tiny(image_shape, classes, keras.layers.BatchNormalization(), keras.layers.Dropout(0.2))


def branching(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """The sum and the normalization give four gradients for the tensor that both take."""
    images = keras.Input(image_shape, dtype="uint8", name="images")
    x = keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(images)))
    x = keras.layers.Add()([x, keras.layers.LayerNormalization()(x)])
    return keras.Model(images, keras.layers.Dense(classes, dtype="float32", name="logits")(x))


#: The built-in recipes, and `tutorial` and `regularized` with networks of a few layers.
RECIPE = {
    **RECIPES,
    "tiny": dataclasses.replace(RECIPES["tutorial"], build_model=tiny),
    "dropping": dataclasses.replace(RECIPES["tutorial"], build_model=dropping, splittable=False),
    "branching": dataclasses.replace(RECIPES["tutorial"], build_model=branching),
    "normalizing": dataclasses.replace(RECIPES["regularized"], build_model=normalizing),
}


def batch_of(images: np.ndarray, seed: list[int]) -> Batch:
    """A batch of which an augmentation sees no more than images and seed."""
    nothing = tf.constant(0)
    return Batch(tf.constant(images), nothing, nothing, nothing, nothing, tf.constant(seed))


def build(recipe_name: str, seed: int = 3) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    keras.utils.set_random_seed(seed)
    recipe = RECIPE[recipe_name]
    model = recipe.build_model((32, 32, 3), 10)
    optimizer = recipe.build_optimizer(LEARNING_RATES.get(recipe_name, 0.1), 1000)
    optimizer.build(model.trainable_variables)
    return model, optimizer


@functools.cache
def compiled_loop(recipe_name: str, shards: int = 1) -> tuple[StepLoop, list[np.ndarray]]:
    """A loop over 328 images in batches of 16, compiled ahead, and its variables before the first step."""
    model, optimizer = build(recipe_name)
    before = [variable.numpy() for variable in (*model.variables, *optimizer.variables)]
    images, labels = pictures(328)
    recipe = RECIPE[recipe_name]
    loop = StepLoop(recipe, model, optimizer, images, labels, batch_size=16, seed=5, shards=shards)
    loop.compile()
    return loop, before


def losses_of(loop: StepLoop, before: list[np.ndarray], steps: int, chunk: int) -> np.ndarray:
    """The losses of the first steps, in calls of `chunk` steps at most."""
    for variable, value in zip((*loop.model.variables, *loop.optimizer.variables), before, strict=True):
        variable.assign(value)
    losses = []
    for done in range(0, steps, loop.steps):
        loop.set_order(epoch_order(5, done // loop.steps, 328))
        for start in range(0, min(loop.steps, steps - done), chunk):
            count = min(chunk, loop.steps - start, steps - done - start)
            losses.append(loop.run(start, count, done + start)[0].losses)
    return np.concatenate(losses)


@contextlib.contextmanager
def tensorflows_own_options() -> Iterator[None]:
    """As in a program that does not call `devices.start`."""
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})
    yield
    tf.config.optimizer.set_experimental_options(options)


@functools.cache
def keras_losses(recipe_name: str) -> tuple[np.ndarray, keras.Model]:
    """The same steps by `train_on_batch`: the same order, pictures and dropout masks."""
    images, labels = pictures(328)
    model, optimizer = build(recipe_name)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    augment = RECIPE[recipe_name].augment
    states = seed_states(model)
    per_epoch = -(-len(labels) // 16)
    losses = []
    for step in range(STEPS):
        epoch, at = divmod(step, per_epoch)
        chosen = epoch_order(5, epoch, len(labels))[16 * at : 16 * at + 16]
        batch = images[chosen]
        if augment is not None:
            batch = augment(batch_of(batch, [augmentation_seed(5), step])).numpy()
        for state, seed in zip(states, layer_seeds(5, len(states)), strict=True):
            state.assign(np.array([seed, step], np.int64))
        # A fresh metric a step: train_on_batch returns a running mean.
        model.reset_metrics()
        with tensorflows_own_options():
            losses.append(float(model.train_on_batch(batch, labels[chosen])))
    return np.array(losses), model


@pytest.mark.parametrize(("recipe_name", "shards"), [("tutorial", 1), ("tutorial", 2), ("regularized", 1)])
def test_200_losses_are_those_of_keras_train_on_batch(recipe_name: str, shards: int) -> None:
    """The tutorial's recipe, whole and in two halves, and one with dropout, normalization, augmentation.

    328 images make the last batch of an epoch a part of one (8 of 16).
    """
    loop, before = compiled_loop(recipe_name, shards)
    ours = losses_of(loop, before, STEPS, loop.steps)
    plain, plain_model = keras_losses(recipe_name)
    assert plain[-20:].mean() < 0.8 * plain[:20].mean(), "nothing was learned; the comparison says little"
    early, late = BOUNDS[recipe_name]
    difference = np.abs(ours - plain)
    assert difference[:50].max() < early
    assert difference.max() < late
    # Batch normalization's moving statistics are our own matter: tests/training/test_layers.py.
    for mine, theirs in zip(loop.model.trainable_weights, plain_model.trainable_weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=late)


@pytest.mark.parametrize("recipe_name", RECIPES)
def test_only_a_model_whose_images_do_not_see_each_other_is_split(recipe_name: str) -> None:
    """Batch statistics and the states of layers that draw are variables that no gradient changes."""
    model = RECIPES[recipe_name].build_model((32, 32, 3), 10)
    assert (not model.non_trainable_variables) == get_recipe(recipe_name).splittable
    # What `recipes` tells of every network.
    assert count_flops(model) > model.count_params()


def test_63_steps_in_calls_of_7_end_with_the_same_bits_as_in_calls_of_a_whole_epoch() -> None:
    loop, before = compiled_loop("regularized")
    assert loop.steps == 21
    weights = []
    for chunk in (21, 7):
        losses_of(loop, before, 63, chunk)
        weights.append(loop.model.get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_compiling_ahead_changes_nothing_and_leaves_nothing_to_compile() -> None:
    images, labels = pictures(40)
    model, optimizer = build("normalizing")
    loop = StepLoop(RECIPE["normalizing"], model, optimizer, images, labels, batch_size=16, seed=5)
    before = model.get_weights()
    loop.compile()
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    traced = loop._run.experimental_get_tracing_count()
    loop.set_order(epoch_order(5, 0, 40))
    loop.run(0, loop.steps, 0)
    assert loop._run.experimental_get_tracing_count() == traced


def test_no_operation_of_a_step_adds_more_than_two_gradients() -> None:
    """The rounding of one that does depends on timing (`devices.start` keeps TensorFlow from making one)."""
    images, labels = pictures(16)
    model, optimizer = build("branching")
    loop = StepLoop(RECIPE["branching"], model, optimizer, images, labels, batch_size=16, seed=5)
    step = tf.function(lambda at: loop.step(at, at, loop.phases[0], loop.streams), autograph=False)
    operations = step.get_concrete_function(tf.constant(0)).graph.get_operations()
    assert {len(each.inputs) for each in operations if each.type == "AddN"} == {2}


def test_under_xla_an_epoch_of_a_recipe_whose_images_do_not_see_each_other_is_one_program() -> None:
    """The last batch, of 8, is filled up with images that do not count."""
    images, labels = pictures(40)
    chunks = []
    for xla in (False, True):
        model, optimizer = build("tiny")
        loop = StepLoop(RECIPE["tiny"], model, optimizer, images, labels, batch_size=16, seed=5, xla=xla)
        loop.set_order(epoch_order(5, 0, 40))
        chunks += loop.run(0, loop.steps, 0)
    assert loop._run.experimental_get_tracing_count() == 1
    np.testing.assert_allclose(chunks[0].losses, chunks[1].losses, rtol=1e-5)
    np.testing.assert_array_equal(chunks[0].correct, chunks[1].correct)


def test_xla_knows_how_many_steps_a_block_has() -> None:
    images, labels = pictures(32)
    model, optimizer = build("tiny")
    loop = StepLoop(RECIPE["tiny"], model, optimizer, images, labels, batch_size=16, seed=5, xla=True)
    step = tf.constant(0)
    compiled = loop._run.experimental_get_compiler_ir(step, step, step, loop.phases[0])(stage="optimized_hlo")
    assert f'"known_trip_count":{{"n":"{BLOCK}"}}' in compiled


def test_xla_compiles_one_program_for_calls_that_begin_anywhere() -> None:
    """Where a call begins, and how many steps it has, is no constant of the program."""
    images, labels = pictures(64)
    model, optimizer = build("normalizing")
    recipe = RECIPE["normalizing"]
    loop = StepLoop(recipe, model, optimizer, images, labels, batch_size=16, seed=5, xla=True)
    first, later = (
        loop._run.experimental_get_compiler_ir(
            *(tf.constant(n) for n in (start, count, start)), loop.phases[0]
        )
        for start, count in ((0, 1), (2, 2))
    )
    assert first(stage="hlo") == later(stage="hlo")


def test_steps_in_blocks_are_the_steps_one_by_one() -> None:
    """Under XLA: 40 steps are a block of 32 and 8 more."""
    images, labels = pictures(80)
    model, optimizer = build("tiny")
    loop = StepLoop(RECIPE["tiny"], model, optimizer, images, labels, batch_size=2, seed=5, xla=True)
    loop.set_order(epoch_order(5, 0, 80))
    state = [*model.variables, *optimizer.variables]
    initial = [variable.numpy() for variable in state]
    losses = []
    for calls in ([40], [1] * 40):
        for variable, value in zip(state, initial, strict=True):
            variable.assign(value)
        starts = np.cumsum([0, *calls[:-1]])
        losses.append(
            np.concatenate([loop.run(s, n, s)[0].losses for s, n in zip(starts, calls, strict=True)])
        )
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("xla", [False, True])
def test_a_loss_that_is_not_finite_inside_a_block_is_the_last_of_the_chunk(xla: bool) -> None:
    images, labels = pictures(640)
    model, optimizer = build("tiny")
    apply = optimizer.apply

    def spoiled(gradients: list[tf.Tensor], variables: list[keras.Variable]) -> None:
        apply(gradients, variables)
        bias = variables[-1]
        bias.assign(tf.where(optimizer.iterations.value >= 5, np.nan, bias.value))

    optimizer.apply = spoiled
    loop = StepLoop(RECIPE["tiny"], model, optimizer, images, labels, batch_size=16, seed=5, xla=xla)
    loop.set_order(np.arange(640))
    (chunk,) = loop.run(0, 40, 0)
    assert (len(chunk.losses), chunk.finite) == (6, False)


def sizeless(image_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """A network for images of any size, of float pixels too."""
    return keras.Sequential(
        [keras.Input(image_shape, dtype="uint8", name="images"), keras.layers.Rescaling(1 / 255),
         keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
         keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    )  # fmt: skip


def growing_loop(epochs: int, **changes: object) -> StepLoop:
    """Steps of 16 of 40 images, at half the size in the first half of the run."""
    RECIPE["growing"] = dataclasses.replace(
        RECIPES["tutorial"], build_model=sizeless, splittable=False, **{"scales": (0.5, 1.0), **changes}
    )
    images, labels = pictures(40)
    model, optimizer = build("growing")
    loop = StepLoop(RECIPE["growing"], model, optimizer, images, labels, batch_size=16, seed=5, epochs=epochs)
    loop.set_order(np.arange(40))
    return loop


@pytest.mark.parametrize("cuts", [[0, 3, 6], [0, 1, 3, 4, 6]])
def test_images_grow_at_the_share_of_the_run_whatever_the_calls(cuts: list[int]) -> None:
    loop = growing_loop(2)
    images, labels = pictures(40)
    found = [loop.run(low % 3, high - low, low)[0].losses for low, high in itertools.pairwise(cuts)]
    plain, optimizer = build("growing")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = []
    for step in range(6):
        batch = slice(16 * (step % 3), min(40, 16 * (step % 3) + 16))
        side = 16 if step < 3 else 32
        with tf.GradientTape() as tape:
            value = loss(labels[batch], through(plain, tf.image.resize(images[batch], (side, side))))
        variables = plain.trainable_variables
        optimizer.apply(tape.gradient(value, variables), variables)
        expected.append(float(value))
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4)


def through(model: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """The logits, layer by layer: the network itself takes one size and whole pixels."""
    for layer in model.layers:
        images = layer(images, training=True)
    return images


def test_a_run_of_one_epoch_grows_its_images_within_the_epoch() -> None:
    calls = [(call.start, call.count, *call.phase[:2]) for call in growing_loop(1).calls(0, 3, 0)]
    assert calls == [(0, 2, 16, 0.5), (2, 1, 8, 1.0)]


def test_a_variable_that_the_recipe_freezes_stays_the_same_after_its_share_of_the_run() -> None:
    images, labels = pictures(96)
    recipe = dataclasses.replace(get_recipe("tutorial"), frozen={"conv1/kernel": 0.5})

    def kernels_after(*counts: int) -> list[list[np.ndarray]]:
        model, optimizer = build("tutorial")
        loop = StepLoop(recipe, model, optimizer, images, labels, batch_size=16, seed=5)
        loop.set_order(np.arange(96))
        kernels, done = [], 0
        for count in counts:
            assert loop.run(done, count, done)[0].finite
            kernels.append([model.get_layer(name).kernel.numpy() for name in ("conv1", "conv2")])
            done += count
        return kernels

    each = kernels_after(1, 1, 1, 1, 1, 1)
    same = [[np.array_equal(*pair) for pair in zip(*both, strict=True)] for both in itertools.pairwise(each)]
    assert same == [[False, False]] * 2 + [[True, False]] * 3
    np.testing.assert_array_equal(kernels_after(6)[0][0], each[2][0])


def scaled_without_a_shape(batch: Batch) -> tf.Tensor:
    return tf.numpy_function(lambda images: (images / 255).astype(np.float32), [batch.images], tf.float32)


@pytest.mark.parametrize(
    "augment", [lambda batch: tf.cast(batch.images, tf.float32) / 255, scaled_without_a_shape]
)
def test_the_network_sees_float_pixels_of_an_augmentation_unrounded(
    augment: Callable[[Batch], tf.Tensor],
) -> None:
    images, labels = pictures(40)
    loop = growing_loop(1, scales=(1.0,), augment=augment)
    plain, _ = build("growing")
    logits = through(plain, tf.cast(images[:16], tf.float32) / 255)
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels[:16], logits)
    assert loop.run(0, 1, 0)[0].losses[0] == pytest.approx(float(expected), rel=1e-5)


class Added(keras.layers.Layer):
    """Adds a loss of its own, the mean over its images of their sums."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        self.add_loss(1e-3 * keras.ops.mean(keras.ops.sum(inputs, axis=1)))
        return inputs


@pytest.mark.parametrize("shards", [1, 2])
def test_the_losses_that_layers_add_are_those_of_keras_train_on_batch(shards: int) -> None:
    images, labels = pictures(48)

    def network() -> keras.Model:
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input((32, 32, 3), dtype="uint8"),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(16, "relu", kernel_regularizer=keras.regularizers.L2(0.1),
                                   activity_regularizer=keras.regularizers.L2(0.01)),
                Added(),
                keras.layers.Dense(10),
            ]
        )  # fmt: skip

    plain, ours = network(), network()
    plain.compile(
        keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )  # fmt: skip
    optimizer = keras.optimizers.SGD(0.01)
    optimizer.build(ours.trainable_variables)
    loop = StepLoop(
        get_recipe("tutorial"), ours, optimizer, images, labels, batch_size=16, seed=5, shards=shards
    )
    loop.set_order(np.arange(48))
    expected = []
    for at in range(0, 48, 16):
        plain.reset_metrics()
        expected.append(float(plain.train_on_batch(images[at : at + 16], labels[at : at + 16])))
    np.testing.assert_allclose(loop.run(0, 3, 0)[0].losses, expected, rtol=1e-5)


def test_a_loss_that_is_not_finite_ends_the_chunk_at_its_step() -> None:
    images, labels = pictures(160)
    model, optimizer = build("tutorial")
    loop = StepLoop(get_recipe("tutorial"), model, optimizer, images, labels, batch_size=16, seed=5)
    loop.set_order(np.arange(160))
    assert loop.run(0, 3, 0)[0].finite
    kernel = model.trainable_variables[0]
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    (chunk,) = loop.run(3, 5, 3)
    assert not chunk.finite
    assert len(chunk.losses) == 1


class Unseen(keras.layers.Layer):
    """Has a weight of which the output shows the sign alone, and even that times 0."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.weight = self.add_weight(shape=(), initializer="ones", name="unseen")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + 0.0 * keras.ops.sign(self.weight)


def test_a_weight_that_is_not_finite_ends_the_chunk_at_its_step_where_no_loss_shows_it() -> None:
    images, labels = pictures(160)
    model = keras.Sequential(
        [keras.Input((32, 32, 3), dtype="uint8"), keras.layers.Rescaling(1 / 255), Unseen(),
         keras.layers.Flatten(), keras.layers.Dense(10)]
    )  # fmt: skip
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)
    apply, weight = optimizer.apply, model.layers[1].weight

    def spoiled(gradients: list[tf.Tensor], variables: list[keras.Variable]) -> None:
        apply(gradients, variables)
        weight.assign(tf.where(optimizer.iterations.value >= 3, np.inf, 1.0))

    optimizer.apply = spoiled
    loop = StepLoop(get_recipe("tutorial"), model, optimizer, images, labels, batch_size=16, seed=5)
    loop.set_order(np.arange(160))
    (chunk,) = loop.run(0, 8, 0)
    assert np.isfinite(chunk.losses).all()
    assert (len(chunk.losses), len(chunk.correct), chunk.finite) == (3, 3, False)


def xla_losses(recipe_name: str, count: int, *, xla: bool, rate: float) -> np.ndarray:
    """The losses of an epoch of `count` images with this rate of dropout."""
    images, labels = pictures(count)
    model, optimizer = build(recipe_name)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = rate
    loop = StepLoop(RECIPE[recipe_name], model, optimizer, images, labels, batch_size=16, seed=5, xla=xla)
    loop.set_order(epoch_order(5, 0, count))
    return loop.run(0, loop.steps, 0)[0].losses


@pytest.mark.parametrize(("recipe_name", "count"), [("tutorial", 40), ("normalizing", 32)])
def test_xla_computes_the_same_losses_where_nothing_is_dropped(recipe_name: str, count: int) -> None:
    """What a GPU runs is compiled here for the CPU: part of a batch, normalization, augmentation and all."""
    plain, compiled = (xla_losses(recipe_name, count, xla=xla, rate=0.0) for xla in (False, True))
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)


def test_xla_drops_units_too() -> None:
    """Keras's dropout draws other masks under XLA, so the losses are not those without it."""
    kept = xla_losses("dropping", 32, xla=False, rate=0.0)
    dropped = xla_losses("dropping", 32, xla=True, rate=0.2)
    assert np.abs(dropped - kept).min() > 1e-3


@pytest.mark.parametrize("recipe_name", ["tutorial", "regularized"])
def test_no_variable_of_the_loop_is_one_that_xla_cannot_reach_on_a_gpu(recipe_name: str) -> None:
    """TensorFlow keeps int32 variables in the host's memory (tensorflow/tensorflow#53192)."""
    images, labels = pictures(32)
    model, optimizer = build(recipe_name)
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(model.trainable_variables)
    loop = StepLoop(get_recipe("tutorial"), model, optimizer, images, labels, batch_size=16, seed=5)
    step = tf.constant(0)
    variables = loop._run.get_concrete_function(step, step, step, loop.phases[0]).variables
    assert len(variables) > len(model.weights)
    assert tf.int32 not in {variable.dtype for variable in variables}


def test_augmentation_flips_and_shifts_whole_pictures_and_follows_from_its_seed() -> None:
    augment = get_recipe("regularized").augment
    assert augment is not None
    images = np.arange(1, 33 * 32 - 31, dtype=np.int64).reshape(1, 32, 32, 1)
    images = np.tile(images % 251 + 1, (64, 1, 1, 3)).astype(np.uint8)
    moved = augment(batch_of(images, [1, 2])).numpy()
    np.testing.assert_array_equal(moved, augment(batch_of(images, [1, 2])).numpy())
    assert (moved != augment(batch_of(images, [1, 3])).numpy()).any()
    padded = np.pad(images[0], ((4, 4), (4, 4), (0, 0)))
    windows = {
        padded[y : y + 32, x : x + 32][:, ::turn].tobytes()
        for y in range(9)
        for x in range(9)
        for turn in (1, -1)
    }
    assert {picture.tobytes() for picture in moved} <= windows
    assert len({picture.tobytes() for picture in moved}) > 30


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_keeps_float32_weights_and_logits(precision: str) -> None:
    from cifar_trainer.settings import Settings
    from cifar_trainer.training.assembly import build_model, build_optimizer

    images, labels = pictures(64)
    recipe = get_recipe("tutorial")
    config = Settings("tutorial", "synthetic", 1, 16, 0.001, precision=precision)
    keras.utils.set_random_seed(0)
    model = build_model(recipe, precision, (32, 32, 3), 10)
    optimizer = build_optimizer(recipe, config, 10)
    optimizer.build(model.trainable_variables)
    assert keras.config.dtype_policy().name == "float32", "the policy must not leak out of the model"
    loop = StepLoop(get_recipe("tutorial"), model, optimizer, images, labels, batch_size=16, seed=5)
    losses = []
    for epoch in range(6):
        loop.set_order(epoch_order(0, epoch, 64))
        losses.append(loop.run(0, loop.steps, epoch * loop.steps)[0].losses.mean())
    assert losses[-1] < 0.8 * losses[0]
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in model.weights} == {"float32"}
    assert model(images[:2]).dtype == tf.float32
    assert model.get_layer("conv1").compute_dtype == precision


@pytest.mark.parametrize("xla", [False, True])
def test_a_step_that_the_loss_scale_skips_is_no_failure_and_changes_no_weight(xla: bool) -> None:
    """A scale under which float16's gradients overflow: it is halved, and the training goes on."""
    from cifar_trainer.training.assembly import build_model

    images, labels = pictures(64)
    keras.utils.set_random_seed(0)
    model = build_model(RECIPE["tiny"], "float16", (32, 32, 3), 10)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=2.0**40)
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    loop = StepLoop(RECIPE["tiny"], model, optimizer, images, labels, batch_size=16, seed=5, xla=xla)
    loop.set_order(epoch_order(0, 0, 64))
    (chunk,) = loop.run(0, 2, 0)
    assert chunk.finite
    assert len(chunk.losses) == 2
    assert float(optimizer.dynamic_scale.numpy()) == 2.0**38
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 4]).astype(np.uint8)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert balanced_weights(labels, 3) == pytest.approx(expected)


def test_a_class_without_images_has_no_weight_and_changes_no_others() -> None:
    labels = np.array([0, 0, 2], np.uint8)
    assert balanced_weights(labels, 3) == pytest.approx([0.75, 0, 1.5])


@pytest.mark.parametrize(("shards", "xla"), [(1, False), (2, False), (1, True)])
def test_the_loss_of_a_mixed_image_is_the_weighted_sum_of_its_labels_losses(shards: int, xla: bool) -> None:
    """With class weights and smoothing; it is classified correctly as the label with the larger share."""
    images, labels = pictures(24)
    weights = np.linspace(0.2, 2, 10)
    augment = augmentation("mixup:1")
    assert augment is not None
    recipe = dataclasses.replace(RECIPE["tiny"], augment=augment, loss=lambda: SmoothedCrossEntropy(0.1))
    model, optimizer = build("tiny")
    expected, correct = [], []
    for step, low in enumerate((0, 16)):
        batch, own = images[low : low + 16], labels[low : low + 16]
        seed = tf.constant([augmentation_seed(5), step])
        nothing = tf.constant(0)
        mixed, others, share = augment(Batch(tf.constant(batch), own, nothing, nothing, nothing, seed))
        logits, kept = model(mixed), np.asarray(share)
        each = [
            SmoothedCrossEntropy(0.1).call(truth, logits) * weights[truth] for truth in (own, others.numpy())
        ]
        expected.append(float(np.mean(kept * each[0] + (1 - kept) * each[1])))
        correct.append(int((np.argmax(logits, axis=1) == np.where(kept < 0.5, others, own)).sum()))
    # The weights stay the same: their gradients are not compared here.
    optimizer = keras.optimizers.SGD(0.0)
    optimizer.build(model.trainable_variables)
    loop = StepLoop(
        recipe, model, optimizer, images, labels, batch_size=16, seed=5, shards=shards,
        xla=xla, class_weights=weights,
    )  # fmt: skip
    loop.set_order(np.arange(24))
    (chunk,) = loop.run(0, 2, 0)
    np.testing.assert_allclose(chunk.losses, expected, rtol=1e-4)
    np.testing.assert_array_equal(chunk.correct, correct)


@pytest.mark.parametrize(("shards", "xla"), [(1, False), (2, False), (1, True)])
def test_losses_with_class_weights_are_those_computed_image_by_image(shards: int, xla: bool) -> None:
    """In one part, in two, and in XLA's program, which fills up the last batch."""
    images, labels = pictures(40)
    weights = np.linspace(0.2, 2, 10)
    ours, optimizer = build("tiny")
    loop = StepLoop(
        RECIPE["tiny"], ours, optimizer, images, labels, batch_size=16, seed=5, shards=shards,
        xla=xla, class_weights=weights,
    )  # fmt: skip
    loop.set_order(np.arange(40))
    found = loop.run(0, 3, 0)[0].losses
    model, optimizer = build("tiny")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    expected = []
    for low in (0, 16, 32):
        batch, truth = images[low : low + 16], labels[low : low + 16]
        with tf.GradientTape() as tape:
            each = loss(truth, model(batch, training=True)) * weights[truth].astype(np.float32)
            total = tf.reduce_sum(each) / len(truth)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(total, [v.value for v in variables]), variables)
        expected.append(float(total))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
