"""The compiled training loop: many steps per call, on images that stay on the device.

`StepLoop.run` makes one call into TensorFlow: gather a batch by index, augment it, forward, backward, update,
and repeat. Nothing returns to Python or host memory between steps. Each step computes the same as
`Model.train_on_batch`; tests/training/test_loop.py verifies this.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.data.mapped import release_pages
from cifar_trainer.model import accepting
from cifar_trainer.recipes import Batch, Mixed, Recipe
from cifar_trainer.recipes.optimizers import StatisticsAverage, by_path
from cifar_trainer.training.distributed import SINGLE, Replicas, Shard
from cifar_trainer.training.layers import KernelVariants, replaced_layers, summed_loss

#: Separate a seed's independent streams of random numbers.
_ORDER, _LAYERS, _AUGMENT = 1, 2, 3


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` images in an epoch (0-based): int64 [count]."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _ORDER, epoch])))
    return generator.permutation(count)


def layer_seeds(seed: int, count: int) -> np.ndarray:
    """A seed for each of `count` random layers: uint32 [count]; the step is their counter."""
    return np.random.SeedSequence([seed, _LAYERS]).generate_state(count, np.uint32)


def augmentation_seed(seed: int) -> int:
    """The first word of the augmentation seed, a non-negative int32; the step is the second word."""
    return int(np.random.SeedSequence([seed, _AUGMENT]).generate_state(1, np.uint32)[0] >> 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """The random streams of one seed.

    Attributes:
        order: the order of the images in this epoch, int64 [N] or longer.
        augmentation: the first word of the augmentation seed, an int32 scalar.
        layers: a seed for each random layer, int64 [layers].
    """

    order: tf.Tensor
    augmentation: tf.Tensor
    layers: tf.Tensor


#: Maximum number of steps per call, and length of the loss buffers.
MAX_CHUNK = 1024
#: Size of the part of large data that is on the device.
WINDOW_BYTES = 2**25
#: Steps between checks for finite losses if XLA compiles the loop.
BLOCK = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Chunk:
    """The results of consecutive steps.

    Attributes:
        losses: float32 [steps], the mean loss of each batch. Ends with the first step whose loss or
            weights are not finite.
        correct: int32 [steps], the number of correctly classified images in each batch.
        finite: whether all losses, and all weights after the last step, are finite.
    """

    losses: np.ndarray
    correct: np.ndarray
    finite: bool


class Phase(NamedTuple):
    """What a traced step depends on. Each phase of a run has its own program.

    Attributes:
        batch: images per step, including padding.
        scale: factor of the images' height and width.
        frozen: indices of the model's trainable variables that the step does not train.
    """

    batch: int
    scale: float
    frozen: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Call:
    """Consecutive steps of one phase: the first one, within the epoch, and their number."""

    start: int
    count: int
    phase: Phase


class Program:
    """Base class of the loops: a TensorFlow function that runs steps, traced once per phase.

    Attributes:
        batch_size: images per step.
        last_batch: size of an epoch's last batch, including padding.
        xla: whether XLA compiles the loop.
        phases: the phases of the run.
    """

    batch_size: int
    last_batch: int
    xla: bool
    phases: tuple[Phase, ...]

    def _trace(self, run_steps: Callable[..., Any]) -> None:
        self._run = tf.function(run_steps, autograph=False, jit_compile=self.xla, reduce_retracing=False)

    def compile(self) -> None:
        """Trace and compile everything that a run needs, without running a step."""
        for phase in self.phases:
            self._steps(Call(0, 0, phase), 0)

    def lowered(self, count: int) -> bytes:
        """The HLO of `count` full steps of the first phase, as a serialized HloModuleProto. Runs nothing.

        TensorFlow's text form omits the values of large constants.
        """
        arguments = (tf.constant(0), tf.constant(count), tf.constant(0), self.phases[0])
        serialized: bytes = self._run.experimental_get_compiler_ir(*arguments)(stage="hlo_serialized")
        return serialized

    def _steps(self, call: Call, global_start: int) -> list[np.ndarray]:
        """Losses, correct images and finiteness of a call's steps."""
        numbers = [tf.constant(number, tf.int32) for number in (call.start, call.count, global_start)]
        # Calling `self._run` would log a warning about its many traces.
        run = self._run.get_concrete_function(*numbers, call.phase)
        losses, correct, finite = (values.numpy() for values in run(*numbers))
        return [losses[: call.count], correct[: call.count], finite]


class StepLoop(Program):
    """Runs training steps of a model on images that it places on the device.

    Args:
        recipe: provides the loss, the augmentation, the scales and what is frozen.
        model: maps uint8 [B, H, W, C] to float32 logits [B, classes].
        optimizer: built for the model's trainable variables.
        images: uint8 [N, H, W, C].
        labels: uint8 [N].
        batch_size: images per step, at most N; an epoch's last step has the rest.
        epochs: epochs of the run.
        seed: the run's seed, for augmentation and random layers.
        xla: whether XLA compiles the loop.
        shards: parts of a batch that run in parallel; their gradients are added. Only `splittable` recipes
            can be split.
        variants: the operations that compute the layers.
        statistics: the moving average of the network's statistics, if the optimizer averages the weights.
        class_weights: factor of an image's loss, by label, float [classes]; None means 1 for all.
        replicas: the processes that compute each batch together; each has all images in the same order.
        frozen: variables of the model that are not trained before the run's step `unfrozen_at`.
        rows: int64 [N], the rows of `images` to train on. They are read a few steps at a time from `images`,
            a memory map [M, H, W, C]. None keeps all images on the device.

    Attributes:
        model, optimizer, statistics, xla: the arguments.
        streams: the random streams of the seed.
        count: number of training images, N.
        steps: steps per epoch.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        epochs: int = 1,
        seed: int,
        xla: bool = False,
        shards: int = 1,
        variants: KernelVariants = KernelVariants(),  # noqa: B008, frozen
        statistics: StatisticsAverage | None = None,
        class_weights: np.ndarray | None = None,
        replicas: Replicas = SINGLE,
        frozen: Sequence[keras.Variable] = (),
        unfrozen_at: int = 0,
        rows: np.ndarray | None = None,
    ) -> None:
        self.model, self.optimizer, self.statistics = model, optimizer, statistics
        self.count = len(labels)
        self.batch_size = batch_size
        self.steps = -(-self.count // batch_size)
        self._recipe = recipe
        self._class_weights = None if class_weights is None else tf.constant(class_weights, tf.float32)
        self._shards = shards
        self._replicas = replicas
        self._variants = variants
        self.xla = xla
        # Pad the last batch with images of weight 0, so that XLA compiles only one program. That is wrong if
        # the images of a batch affect each other.
        self._masked = xla and recipe.splittable and self.count % batch_size != 0
        self.last_batch = batch_size if self._masked else self.count - (self.steps - 1) * batch_size
        self._total_steps = epochs * self.steps
        # By index, the first step of a variable that is not trained in all steps, and the one after its last.
        self._limits: dict[int, tuple[int, float]] = {}
        for i, variable in enumerate(model.trainable_variables):
            first = unfrozen_at if any(variable is each for each in frozen) else 0
            share = by_path(recipe.frozen, variable, None)
            end = math.inf if share is None else round(share * self._total_steps)
            if (first, end) != (0, math.inf):
                self._limits[i] = (first, end)
        self.phases = self._all_phases()
        self._rows = rows
        self._window = self.steps
        if rows is None:
            self._images = tf.constant(images)
        else:
            self._file = images
            self._window = min(self.steps, max(1, WINDOW_BYTES // math.prod((batch_size, *images.shape[1:]))))
            self._images = tf.Variable(tf.zeros((self._window * batch_size, *images.shape[1:]), tf.uint8))
        self._labels = tf.constant(labels)
        # int64: TensorFlow keeps int32 variables in host memory, which a loop compiled by XLA for a GPU
        # cannot read.
        length = self.steps * batch_size if self._masked else self.count
        self._order = tf.Variable(tf.zeros([length], tf.int64), trainable=False)
        self._seed_states = seed_states(model)
        layers = layer_seeds(seed, len(self._seed_states))
        self.streams = Streams(
            self._order, tf.constant(augmentation_seed(seed)), tf.constant(layers, tf.int64)
        )
        self._loss = summed_loss(recipe.loss(), variants)
        self._trace(self._run_steps)

    def set_order(self, order: np.ndarray) -> None:
        """Set the order of the images: int64 [N], a permutation."""
        self._order.assign(np.pad(order, (0, self._order.shape[0] - self.count)))
        self._on_device = -1

    def batch_sizes(self, start: int, count: int) -> np.ndarray:
        """The number of images in each of `count` steps from `start`: int64 [count]."""
        first = np.arange(start, start + count) * self.batch_size
        return np.minimum(first + self.batch_size, self.count) - first

    def run(self, start: int, count: int, global_start: int, members: Sequence[int] = (0,)) -> list[Chunk]:
        """Run `count` steps of the epoch, starting at step `start` (0-based).

        Args:
            start: the first step, within the epoch.
            count: number of steps, at most MAX_CHUNK; start + count is at most `self.steps`.
            global_start: global step of the first step.
            members: as for `StackedLoop.run`; always a single one.

        Returns:
            One chunk.
        """
        return [self._run_checked(start, count, global_start)]

    def _run_checked(self, start: int, count: int, global_start: int) -> Chunk:
        state = [*self.model.variables, *self.optimizer.variables]
        before = [tf.identity(variable.value) for variable in state]
        chunk = self._run_chunk(start, count, global_start)
        if chunk.finite or not np.isfinite(chunk.losses).all():
            return chunk
        # A weight is not finite, but every loss is: on some processors, ReLU turns NaN into 0. Checking the
        # weights after every step would be slower, so repeat this chunk step by step.
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)
        return self._run_to_first_fault(start, count, global_start) or chunk

    def _run_to_first_fault(self, start: int, count: int, global_start: int) -> Chunk | None:
        """Run step by step until the fault; None if it does not recur, which can happen on a GPU."""
        parts: list[Chunk] = []
        while len(parts) < count:
            parts.append(self._run_chunk(start + len(parts), 1, global_start + len(parts)))
            if not parts[-1].finite:
                return joined(parts)
        return None

    def _run_chunk(self, start: int, count: int, global_start: int) -> Chunk:
        parts: list[Chunk] = []
        for call in self.calls(start, count, global_start):
            if not parts or parts[-1].finite:
                parts.append(chunk_of(*self._steps(call, global_start + call.start - start)))
        return joined(parts)

    def _steps(self, call: Call, global_start: int) -> list[np.ndarray]:
        window, size = call.start // self._window, self._window * self.batch_size
        if self._rows is not None and call.count > 0 and self._on_device != window:
            # The last window is filled by repetition.
            order = np.resize(self._order.numpy()[window * size :][:size], size)
            self._images.assign(self._file[self._rows[order]])
            # Pages of the map would count as this process's memory.
            release_pages(self._file)
            self._on_device = window
        return super()._steps(call, global_start)

    def calls(self, start: int, count: int, global_start: int) -> list[Call]:
        """The calls that run `count` steps from `start`, which is the run's step `global_start`."""
        at = [(start + i, global_start + i) for i in range(count)]
        parts = [(self._phase(*steps), steps[0] // self._window) for steps in at]
        calls = []
        for (phase, _), same in itertools.groupby(range(count), parts.__getitem__):
            steps = list(same)
            calls.append(Call(start + steps[0], len(steps), phase))
        return calls

    def _phase(self, step: int, global_step: int) -> Phase:
        scales = self._recipe.scales
        # A benchmark may run more steps than its run has.
        part = min(global_step * len(scales) // self._total_steps, len(scales) - 1)
        batch = self.last_batch if step == self.steps - 1 else self.batch_size
        frozen = (i for i, (first, end) in self._limits.items() if not first <= global_step < end)
        return Phase(batch, scales[part], tuple(frozen))

    def _all_phases(self) -> tuple[Phase, ...]:
        parts = len(self._recipe.scales)
        changes = {-(-self._total_steps * i // parts) for i in range(parts)}
        changes |= {int(step) for limits in self._limits.values() for step in limits if step < math.inf}
        phases = [self._phase(0, first) for first in sorted(changes)]
        batches = (self.batch_size, self.last_batch)
        # A dictionary keeps the order and drops duplicates.
        return tuple(dict.fromkeys(phase._replace(batch=batch) for batch in batches for phase in phases))

    def _run_steps(self, start: tf.Tensor, count: tf.Tensor, global_start: tf.Tensor, phase: Phase) -> Any:
        State = tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]  # noqa: N806

        def one(i: tf.Tensor, _: tf.Tensor, losses: tf.Tensor, correct: tf.Tensor) -> State:
            loss, right = self.step(start + i, global_start + i, phase, self.streams)
            at = tf.reshape(i, [1, 1])
            losses = tf.tensor_scatter_nd_update(losses, at, tf.reshape(loss, [1]))
            correct = tf.tensor_scatter_nd_update(correct, at, tf.reshape(right, [1]))
            return i + 1, tf.math.is_finite(loss), losses, correct

        def block(i: tf.Tensor, finite: tf.Tensor, losses: tf.Tensor, correct: tf.Tensor) -> State:
            # A constant number of steps without checking the losses: the check makes a GPU wait for the host.
            _, i, _, losses, correct = tf.while_loop(
                lambda done, *_: done < BLOCK,
                lambda done, *state: (done + 1, *one(*state)),
                (tf.constant(0), i, finite, losses, correct),
                parallel_iterations=1,
            )
            return i, tf.reduce_all(tf.math.is_finite(losses)), losses, correct

        def repeat(body: Any, steps: int, state: State) -> State:
            # One step at a time: each step reads the weights that the previous one wrote.
            done: State = tf.while_loop(
                lambda i, finite, *_: tf.logical_and(i + steps <= count, finite),
                body,
                state,
                parallel_iterations=1,
            )
            return done

        state = (tf.constant(0), tf.constant(True), tf.zeros([MAX_CHUNK]), tf.zeros([MAX_CHUNK], tf.int32))
        if self.xla and phase.batch == self.batch_size:
            state = repeat(block, BLOCK, state)
        _, finite, losses, correct = repeat(one, 1, state)
        for variable in self.model.trainable_variables:
            finite = tf.logical_and(finite, tf.reduce_all(tf.math.is_finite(variable.value)))
        return losses, correct, finite

    def step(
        self, step: tf.Tensor, global_step: tf.Tensor, phase: Phase, streams: Streams
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Trace one step; returns the batch's mean loss and its number of correctly classified images.

        Args:
            step, global_step: the step within the epoch and within the run, int32 scalars.
            phase: the step's phase.
            streams: the seed's random streams.
        """
        batch, scale, frozen = phase
        # Not a slice: XLA would treat its start as a constant and compile again for each call.
        indices = tf.gather(streams.order, step * self.batch_size + tf.range(batch))
        at = indices
        if self._rows is not None:
            at = step % self._window * self.batch_size + tf.range(batch)
        images, labels = tf.gather(self._images, at), tf.gather(self._labels, indices)
        weights, size = self._weights(step, batch)
        targets = [(labels, weights)]
        if self._recipe.augment is not None:
            seed = tf.stack([streams.augmentation, global_step])
            epoch = global_step // self.steps
            images = self._recipe.augment(Batch(images, labels, indices, epoch, global_step, seed))
            if isinstance(images, Mixed):
                images, others, share = images
                own, other = (each if weights is None else each * weights for each in (share, 1.0 - share))
                targets = [(labels, own), (others, other)]
                labels = tf.where(share < 0.5, others, labels)
            # Operations such as tf.numpy_function hide it.
            images.set_shape([batch, *self.model.input_shape[1:]])
        if scale != 1:
            images = tf.image.resize(images, [round(scale * side) for side in self.model.input_shape[1:3]])
        for i, state in enumerate(self._seed_states):
            seed = tf.stack([streams.layers[i], tf.cast(global_step, tf.int64)])
            state.assign(tf.cast(seed, state.dtype))
        # With fewer images than processes, each computes all of them.
        replicas = self._replicas if batch >= self._replicas.count else SINGLE
        low, high = replicas.shard(batch)
        cuts = np.linspace(low, high, min(self._shards, batch) + 1).astype(int)
        shard = None if replicas is SINGLE else Shard(batch, low, high, replicas)
        trained = [v for i, v in enumerate(self.model.trainable_variables) if i not in frozen]
        network = accepting(self.model, images)
        with replaced_layers(self.model, self._variants, global_step, shard):
            parts = [
                self._forward_backward(
                    network,
                    trained,
                    images[low:high],
                    labels[low:high],
                    None if weights is None else weights[low:high],
                    [(each[low:high], None if part is None else part[low:high]) for each, part in targets],
                    size,
                    (high - low) / batch,
                )
                for low, high in itertools.pairwise(cuts)
            ]
        losses, rights, gradients = zip(*parts, strict=True)
        summed = [tf.add_n(shards) for shards in zip(*gradients, strict=True)]
        loss, right, *summed = self._replicas.all_reduce(
            [tf.add_n(losses), tf.add_n(rights), *summed], copies=self._replicas.count // replicas.count
        )
        self.optimizer.apply(summed, trained)
        if self.statistics is not None:
            self.statistics.update(global_step + 1)
        return loss, right

    def _weights(self, step: tf.Tensor, batch: int) -> tuple[tf.Tensor | None, Any]:
        """The weight of each image in a batch, float32 [B] or None if all are 1; and their sum."""
        if not self._masked:
            return None, batch
        weights = tf.cast(tf.range(batch) + step * self.batch_size < self.count, tf.float32)
        return weights, tf.reduce_sum(weights)

    def _weighted(self, labels: tf.Tensor, weights: tf.Tensor | None) -> tf.Tensor | None:
        """These images' weights multiplied by their classes' weights: float32 [B], or None if all are 1."""
        if self._class_weights is None:
            return weights
        by_class = tf.gather(self._class_weights, tf.cast(labels, tf.int32))
        return by_class if weights is None else by_class * weights

    def _forward_backward(
        self,
        network: keras.Model,
        trained: Sequence[keras.Variable],
        images: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor | None,
        targets: Sequence[tuple[tf.Tensor, tf.Tensor | None]],
        size: Any,
        share: float,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """The contribution of some images to their batch's loss, correct images and gradients.

        Args:
            network: the model, adapted to the images' size and dtype.
            trained: the variables whose gradients to compute.
            images: some images of the batch.
            labels: their labels; for a mixed image, the one with the larger share.
            weights: their weights, float32, or None if all are 1.
            targets: pairs of labels and weights, as above. Mixed images have two pairs, and their losses are
                added.
            size: size of the whole batch, without padding.
            share: these images' share of the batch.
        """
        logits = network(images, training=True)
        sums = [self._loss(each, logits, self._weighted(each, part)) for each, part in targets]
        loss = (sums[0] if len(sums) == 1 else tf.add_n(sums)) / size
        # A layer's loss concerns the weights, or is a mean over the images.
        for added in network.losses:
            loss += added * share
        scaled = self.optimizer.scale_loss(loss)
        # A tape would add three or more gradients of a tensor with AddN. On a CPU, that starts with one whose
        # memory nobody else needs, so that the rounding depends on which operations have ended.
        gradients = tf.gradients(
            scaled, [variable.value for variable in trained],
            aggregation_method=tf.AggregationMethod.EXPERIMENTAL_TREE,
        )  # fmt: skip
        predicted = tf.argmax(logits, axis=-1, output_type=tf.int32)
        right = predicted == tf.cast(labels, tf.int32)
        if weights is not None:
            right = tf.logical_and(right, weights > 0)
        return loss, tf.math.count_nonzero(right, dtype=tf.int32), gradients


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """The weight of each class, float64 [classes]: N / (K × its images), so that an image's mean weight is 1.

    Like scikit-learn's `balanced` (King & Zeng 2001). Classes without images have weight 0 and are not
    counted in K.
    """
    counts = np.bincount(labels, minlength=classes)
    present = counts > 0
    weights = np.zeros(classes)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights


def chunk_of(losses: np.ndarray, correct: np.ndarray, finite: np.ndarray) -> Chunk:
    """A chunk of these steps, up to the first loss that is not finite."""
    faults = np.flatnonzero(~np.isfinite(losses))
    steps = int(faults[0]) + 1 if len(faults) else len(losses)
    return Chunk(losses[:steps], correct[:steps], bool(finite))


def joined(parts: list[Chunk]) -> Chunk:
    """Join consecutive chunks."""
    return Chunk(
        losses=np.concatenate([part.losses for part in parts]),
        correct=np.concatenate([part.correct for part in parts]),
        finite=parts[-1].finite,
    )


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """The state of each random layer, [2]: seed and counter. Keras does not count states as weights."""
    weights = {id(variable) for variable in model.weights}
    return [
        variable
        for variable in model.variables
        if id(variable) not in weights and "seed_generator" in variable.path
    ]
