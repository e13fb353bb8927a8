"""Checks of a recipe in short runs, all of which use one compiled program. Imports TensorFlow."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.checks.network import (
    CS231N,
    KARPATHY,
    OURS,
    Samples,
    check_network,
    dead_check,
    dead_units,
    mean_loss,
)
from cifar_trainer.checks.verdicts import Check, LayerReport, RateRange
from cifar_trainer.data.dataset import Split
from cifar_trainer.errors import UsageError
from cifar_trainer.recipes import Recipe
from cifar_trainer.recipes.catalogue import count_flops
from cifar_trainer.recipes.optimizers import rate_of
from cifar_trainer.recipes.own import check_loadable
from cifar_trainer.recipes.recipe import augmented
from cifar_trainer.training.assembly import build_model
from cifar_trainer.training.layers import choose_variants
from cifar_trainer.training.loop import StepLoop

#: Maximum images per step, and maximum FLOPs of their forward pass, unless FEW images need more. A larger
#: batch is reduced, and its learning rate with it (Goyal et al. 2017).
BATCH, STEP_FLOPS = 64, 2e10
#: Steps of a short run: usually, and for a network with more than LARGE FLOPs per image.
STEPS, LARGE_STEPS, LARGE = 300, 60, 1e8
#: Seeds of the range test, and its range in powers of ten around the recipe's rate.
SEEDS, RANGE = (0, 1), (-3.0, 2.0)
#: Share of the smoothed loss that each step of the range test keeps, and the steps after which it is smooth.
SMOOTHING, SETTLED = 0.9, 10
#: When a loss counts as diverged: factor of the first loss, and gain as a share of it (`highest_rate`).
DIVERGED, GAINED = 1.2, 0.08
#: Distinct images in the batch to overfit: "only a few examples (e.g. as little as two)" (Karpathy 2019).
#: With a whole batch of distinct images, a sound recipe with plain SGD would need more than STEPS.
FEW = 8
#: The loss on one batch may stay above the lowest possible loss by this much.
OVERFITTED = 0.1
#: Compared with black images, real ones must lower the loss by this fraction.
BASELINE_GAIN = 0.03
#: Limits of one step's change of a kernel, relative to the kernel.
SMALLEST_UPDATE, LARGEST_UPDATE = 1e-7, 0.1
#: Minimum share of the accuracy above chance that must remain under augmentation.
KEPT = 0.6

Progress = Callable[[str, int, int | None], None]
#: If one of these checks fails, the others are meaningless.
_IMPOSSIBLE = ("output", "loss function")


@dataclasses.dataclass(frozen=True, eq=False)
class Examination:
    """The results of all checks.

    Attributes:
        checks: in order. After a fault that makes training impossible, the short runs are skipped.
        layers: figures by layer.
        ranges: the range test of each seed.
        learning_rate: the recipe's rate for the batch size of the short runs.
        steps, batch_size: steps of each short run, and images per step.
    """

    checks: list[Check]
    learning_rate: float
    layers: list[LayerReport] = dataclasses.field(default_factory=list)
    ranges: list[RateRange] = dataclasses.field(default_factory=list)
    steps: int = 0
    batch_size: int = 0


def examine(
    recipe: Recipe,
    train: Split,
    classes: int,
    *,
    gpu: bool = False,
    steps: int | None = None,
    on_progress: Progress = lambda name, done, total: None,
) -> Examination:
    """Run all checks of a recipe.

    Args:
        recipe: the recipe.
        train: the training images; some of them are trained on, others held out.
        classes: number of classes.
        gpu: whether the device is a GPU.
        steps: steps of each short run, 0 for none; None: STEPS, or LARGE_STEPS for a large network.
        on_progress: called with (name, done, total).
    """
    keras.utils.set_random_seed(SEEDS[0])
    expected = "one output that loads again"
    try:
        model = build_model(recipe, "float32", train.image_shape, classes)
        check_loadable(recipe, model)
    except UsageError as error:
        return Examination([Check("network", False, None, expected, str(error), OURS)], recipe.learning_rate)
    size = f"{model.count_params():,} parameters."
    checks = [Check("network", True, None, expected, size, OURS)]
    samples = Samples.of(train, recipe, classes)
    if recipe.initialize is not None:
        recipe.initialize(model, samples.train.images)
    start = model.get_weights()
    for check in check_network(recipe, model, samples):
        checks.append(check)
        if check.name in _IMPOSSIBLE and not check.passed:
            return Examination(checks, recipe.learning_rate)
    dead = dead_units(model, samples.images)
    if dead:
        checks.append(dead_check(dead))
    # These passes changed the statistics of batch normalization.
    model.set_weights(start)
    flops = count_flops(model)
    if steps is None:
        steps = LARGE_STEPS if flops > LARGE else STEPS
    if steps == 0:
        return Examination(
            checks, recipe.learning_rate, [LayerReport(name, None, dead[name]) for name in dead]
        )
    batch = max(FEW, min(BATCH, int(STEP_FLOPS / max(flops, 1))))
    trials = Trials(recipe, model, samples, steps, batch, gpu=gpu, on_progress=on_progress)
    checks += [trials.overfit_one_batch(), *trials.fit()]
    updates = trials.updates
    layers = [
        LayerReport(name, updates.get(name), dead.get(name)) for name in dict.fromkeys([*updates, *dead])
    ]
    if updates:
        checks.append(_update_check(updates))
    ranges = trials.range_tests()
    checks.append(_range_check(ranges, trials.learning_rate))
    return Examination(checks, trials.learning_rate, layers, ranges, steps, trials.batch_size)


class _Table(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step, which can be replaced without compiling again."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.rates = tf.Variable(tf.zeros([steps]), trainable=False)

    def __call__(self, step: Any) -> tf.Tensor:
        return tf.gather(self.rates, tf.minimum(tf.cast(step, tf.int32), self.steps - 1))

    def get_config(self) -> dict[str, Any]:
        return {"steps": self.steps}


class Trials:
    """Short runs of a recipe, without augmentation, from the same initial weights.

    Attributes:
        steps, batch_size: steps of each run, and images per step.
        learning_rate: the recipe's, reduced in proportion to the batch size.
        updates: after `fit`, the size of one step's change relative to each layer's kernel.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: keras.Model,
        samples: Samples,
        steps: int,
        batch: int,
        *,
        gpu: bool,
        on_progress: Progress,
    ) -> None:
        self._recipe, self._model, self._samples = recipe, model, samples
        self.steps = steps
        self.batch_size = min(recipe.batch_size, batch, len(samples.train))
        self.learning_rate = recipe.learning_rate * min(1.0, self.batch_size / recipe.batch_size)
        self.updates: dict[str, float] = {}
        self._on_progress = on_progress
        optimizer = recipe.build_optimizer(self.learning_rate, steps)
        own, self._table = rate_of(optimizer), _Table(steps)
        # The recipe's own schedule, compressed into this run.
        self._rates = np.array([float(own(i)) if callable(own) else own for i in range(steps)], np.float32)
        self._optimizer = type(optimizer).from_config(
            {**optimizer.get_config(), "learning_rate": self._table}
        )
        self._optimizer.build(model.trainable_variables)
        # One black image per label, for the baseline without images.
        black = np.zeros((samples.classes, *samples.train.image_shape), np.uint8)
        self._loop = StepLoop(
            # At full size, and everything trained: the loop does not know the steps of a trial.
            dataclasses.replace(recipe, augment=None, scales=(1.0,), frozen={}),
            model,
            self._optimizer,
            np.concatenate([samples.train.images, black]),
            np.concatenate([samples.train.labels, np.arange(samples.classes)]).astype(np.uint16),
            batch_size=self.batch_size,
            seed=SEEDS[0],
            variants=choose_variants(model, self.batch_size, gpu=gpu, conv="auto"),
        )
        self._state = [*model.variables, *self._optimizer.variables]
        self._start = [variable.numpy() for variable in self._state]
        self._order = np.random.default_rng(0).permutation(
            np.arange(steps * self.batch_size) % len(samples.train)
        )

    def overfit_one_batch(self) -> Check:
        """Train on a single batch: a few images, repeated to fill it."""
        batch = np.arange(min(FEW, self.batch_size))
        self._run("one batch", np.tile(np.resize(batch, self.batch_size), self.steps), self._rates)
        images, labels = self._samples.train.images[batch], self._samples.train.labels[batch]
        logits = self._logits(images)
        reached = mean_loss(self._recipe.loss(), labels, logits)
        right = float((logits.argmax(axis=1) == labels).mean())
        raised = [
            np.eye(self._samples.classes, dtype=np.float32)[labels] * size for size in np.linspace(0, 40, 81)
        ]
        lowest = min(mean_loss(self._recipe.loss(), labels, each) for each in raised)
        passed = right == 1 and reached < lowest + OVERFITTED
        text = f"{len(batch)} images, {self.steps} steps: {right:.0%} classified correctly."
        if not passed:
            text += (
                " The network cannot even memorize a few images. Look at the other failed checks, "
                "lower or raise the learning rate, or weaken the regularization."
            )
        return Check(
            "one batch overfitted", passed, reached - lowest if np.isfinite(reached) else None,
            f"loss above the minimum below {OVERFITTED}", text, f"{KARPATHY}: overfit one batch",
        )  # fmt: skip

    def fit(self) -> list[Check]:
        """Train on images, and on black images with the same labels."""
        kernels = {
            layer.name: layer.kernel
            for layer in self._model._flatten_layers(include_self=False)
            if isinstance(getattr(layer, "kernel", None), keras.Variable) and layer.kernel.trainable
        }
        # At the highest rate, but not in the first steps.
        watched = max(int(np.argmax(self._rates)), self.steps // 10)
        self._reset()
        with_images = self._go_on("training", self._order, self._rates, 0, watched)
        before = {name: kernel.numpy() for name, kernel in kernels.items()}
        with_images += self._go_on("training", self._order, self._rates, watched, watched + 1)
        self.updates = {
            name: float(
                np.linalg.norm(kernel.numpy() - before[name])
                / max(float(np.linalg.norm(before[name])), 1e-12)
            )
            for name, kernel in kernels.items()
        }
        with_images += self._go_on("training", self._order, self._rates, watched + 1, self.steps)
        after = self._augmentation_checks()
        labels = self._samples.train.labels[self._order].astype(int)
        without = self._run("black images", len(self._samples.train) + labels, self._rates)
        last = max(1, self.steps // 10)
        losses = [
            float(np.mean(each[-last:])) if len(each) == self.steps else np.inf
            for each in (with_images, without)
        ]
        gain = 1 - losses[0] / losses[1] if np.isfinite(losses[0]) else -1.0
        passed = gain > BASELINE_GAIN
        text = f"Loss {losses[0]:.3g} with images, {losses[1]:.3g} with black ones, after {self.steps} steps."
        if not passed:
            text += (
                " The network learns nothing from the images. Look for inputs that are zero, labels in a "
                "different order from the images, or an unsuitable learning rate."
            )
        baseline = Check(
            "images against black images", passed, gain, f"loss at least {BASELINE_GAIN:.0%} lower", text,
            f"{KARPATHY}: input independent baseline",
        )  # fmt: skip
        return [baseline, *after]

    def _augmentation_checks(self) -> list[Check]:
        held, classes = self._samples.held_out, self._samples.classes
        name, expected = "accuracy under augmentation", f"at least {KEPT:.0%} of the accuracy above chance"
        if self._recipe.augment is None or not len(held):
            return [Check(name, True, None, expected, "The recipe has no augmentation.", OURS)]
        plain, changed = (
            float((self._logits(images).argmax(axis=1) == held.labels).mean())
            for images in (held.images, augmented(self._recipe, held.images, 1)[0])
        )
        chance = float(np.max(np.bincount(held.labels, minlength=classes)) / len(held))
        error = (chance * (1 - chance) / len(held)) ** 0.5
        if plain < chance + 4 * error:
            text = f"Not measured: held-out accuracy is {plain:.1%} after {self.steps} steps, near chance."
            return [Check(name, True, None, expected, text, OURS)]
        kept = (changed - chance) / (plain - chance)
        text = (
            f"Held-out accuracy {plain:.1%}, or {changed:.1%} with augmentation, after training without it."
        )
        passed = kept + 2 * error / (plain - chance) >= KEPT
        if not passed:
            text += " The augmentation may change what an image shows: look at it with recipes --show --plot."
        return [Check(name, passed, kept, expected, text, OURS)]

    def range_tests(self) -> list[RateRange]:
        """Raise the learning rate step by step, once for each seed (Smith 2017, section 3.3)."""
        rates = self.learning_rate * np.logspace(*RANGE, self.steps)
        tests = []
        for seed in SEEDS:
            if seed != SEEDS[0]:
                self._begin_with(seed)
            order = np.random.default_rng(seed).permutation(self._order)
            losses = self._run(f"range test, seed {seed}", order, rates.astype(np.float32))
            smoothed = smooth(losses)
            settled = min(SETTLED, max(0, len(smoothed) - 1))
            highest = highest_rate(rates[settled:], smoothed[settled:], noise(losses[:SETTLED]))
            tests.append(RateRange(seed, tuple(map(float, rates)), tuple(map(float, smoothed)), highest))
        return tests

    def _begin_with(self, seed: int) -> None:
        keras.utils.set_random_seed(seed)
        other = build_model(self._recipe, "float32", self._samples.train.image_shape, self._samples.classes)
        if self._recipe.initialize is not None:
            self._recipe.initialize(other, self._samples.train.images)
        for i, value in enumerate(variable.numpy() for variable in other.variables):
            self._start[i] = value

    def _reset(self) -> None:
        for variable, value in zip(self._state, self._start, strict=True):
            variable.assign(value)

    def _run(self, name: str, order: np.ndarray, rates: np.ndarray) -> list[float]:
        self._reset()
        return self._go_on(name, order, rates, 0, self.steps)

    def _go_on(self, name: str, order: np.ndarray, rates: np.ndarray, first: int, end: int) -> list[float]:
        """Run the steps from `first` up to, but not including, `end`; return the finite losses."""
        self._table.rates.assign(rates)
        losses: list[float] = []
        longest = self._loop.count // self.batch_size
        while first < end:
            count = min(longest, end - first)
            part = np.zeros(self._loop.count, np.int64)
            part[: count * self.batch_size] = order[
                first * self.batch_size : (first + count) * self.batch_size
            ]
            self._loop.set_order(part)
            (chunk,) = self._loop.run(0, count, first)
            losses += [float(loss) for loss in chunk.losses if np.isfinite(loss)]
            if not chunk.finite:
                break
            first += count
            self._on_progress(name, first, self.steps)
        return losses

    def _logits(self, images: np.ndarray) -> np.ndarray:
        parts = [self._model(images[i : i + 128], training=False) for i in range(0, len(images), 128)]
        return np.concatenate([np.asarray(part) for part in parts])


def smooth(losses: list[float]) -> np.ndarray:
    """The exponential moving average of losses, corrected for its start: float64 [steps]."""
    average, smoothed = 0.0, []
    for step, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING**step))
    return np.array(smoothed)


def noise(losses: list[float]) -> float:
    """The standard deviation of smoothed losses, estimated from losses before training lowers them."""
    return float(np.std(losses)) * ((1 - SMOOTHING) / (1 + SMOOTHING)) ** 0.5 if losses else 0.0


def highest_rate(rates: np.ndarray, smoothed: np.ndarray, deviation: float = 0.0) -> float:
    """The highest rate before the loss diverges.

    The loss diverges if it is not finite, exceeds DIVERGED times the first loss, or, once it was lower by a
    share of GAINED, loses three quarters of that gain. Changes within three standard deviations are noise.

    Args:
        rates: float [steps], rising.
        smoothed: float [steps]; shorter if a loss was not finite.
        deviation: standard deviation of smoothed losses at a constant rate.
    """
    if not len(smoothed):
        return 0.0
    best = np.minimum.accumulate(smoothed)
    gained = smoothed[0] - best > max(GAINED * smoothed[0], 3 * deviation)
    lost = gained & (smoothed > 0.25 * best + 0.75 * smoothed[0])
    highest = smoothed[0] + max((DIVERGED - 1) * smoothed[0], 3 * deviation)
    faults = np.flatnonzero(lost | (smoothed > highest))
    end = int(faults[0]) if len(faults) else len(smoothed)
    return float(rates[max(0, end - 1)])


def _update_check(updates: dict[str, float]) -> Check:
    name, expected = "update of each layer", f"about 0.001 of the weights, at most {LARGEST_UPDATE:g}"
    source = f"{CS231N} 3, ratio of weights:updates"
    worst = max(updates, key=lambda layer: updates[layer])
    still = [layer for layer, ratio in updates.items() if not ratio > SMALLEST_UPDATE]
    text = f"One step changes {worst} by {updates[worst]:.2g} of its weights, and other layers by less."
    if still:
        text = f"One step does not change {', '.join(still)}: no gradient arrives."
    elif not updates[worst] <= LARGEST_UPDATE:
        text = f"One step changes {worst} by {updates[worst]:.0%} of its weights. Lower the learning rate."
    passed = not still and updates[worst] <= LARGEST_UPDATE
    return Check(name, passed, updates[worst], expected, text, source)


def _range_check(ranges: list[RateRange], rate: float) -> Check:
    highest = min(each.highest for each in ranges)
    text = (
        f"The loss does not diverge up to {highest:.2g} ({len(ranges)} seeds); the recipe's rate is {rate:g}."
    )
    if rate > highest:
        text = (
            f"The loss diverges above a rate of {highest:.2g}; the recipe's is {rate:g}. Try "
            f"{highest / 10:.1g}."
        )
    return Check(
        "learning-rate range", rate <= highest, highest, f"above the recipe's rate, {rate:g}", text,
        "Smith 2017, section 3.3",
    )  # fmt: skip
