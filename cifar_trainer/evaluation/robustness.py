"""Accuracy under corruptions and attacks."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer import metrics
from cifar_trainer.data.splits import stratified_limit
from cifar_trainer.errors import UsageError
from cifar_trainer.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.model import images_per_call, to_float32

#: Iterations of PGD, with steps of 2.5 · epsilon / STEPS (Madry et al. 2018, as in their code).
STEPS = 10
#: Largest change of a value by an attack, in 255ths.
EPSILONS = (1, 2, 4, 8)
SEED = 0


class Attacker:
    """Attacks a model through its prediction, including all views that its recipe averages.

    Args:
        model: uint8 [N, H, W, C] to logits [N, classes], whose first layer takes 0 to 255.
        predict: the recipe's `predict`, from the model and images to logits; None calls the model.
        seed: seed of PGD's random starts.
    """

    def __init__(
        self,
        model: keras.Model,
        predict: Callable[[keras.Model, tf.Tensor], tf.Tensor] | None = None,
        seed: int = SEED,
    ) -> None:
        # Clone the network with floating-point input, which has a gradient.
        images = keras.Input(model.input_shape[1:], dtype="float32")
        self._model = keras.models.clone_model(model, input_tensors=images)
        self._model.set_weights(model.get_weights())
        self._predict = predict
        self._seed = seed
        gpu = bool(tf.config.get_visible_devices("GPU"))
        self._fgsm = tf.function(self._step_once, autograph=False, jit_compile=gpu)
        self._pgd = tf.function(self._ascend, autograph=False, jit_compile=gpu)

    def fgsm(self, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
        """One step along the sign of the gradient (Goodfellow et al. 2015, section 4).

        Args:
            images: uint8 [N, H, W, C].
            labels: integer [N].
            epsilon: largest change of a value on the scale from 0 to 1.

        Returns:
            Logits of the attacked images, float32 [N, classes].

        Raises:
            UsageError: the recipe's `predict` has no gradient.
        """
        return self._attack(self._fgsm, images, labels, epsilon)

    def pgd(self, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
        """Small steps from a random start, kept within epsilon (Madry et al. 2018, section 2.1).

        Arguments, result and errors are as for `fgsm`.
        """
        return self._attack(self._pgd, images, labels, epsilon)

    def _attack(
        self, attack: Callable[..., tf.Tensor], images: np.ndarray, labels: np.ndarray, epsilon: float
    ) -> np.ndarray:
        logits, size = [], images_per_call(images.shape)
        for start in range(0, len(images), size):
            batch = slice(start, start + size)
            values = tf.constant(images[batch].astype(np.float32) / np.float32(255))
            truth = tf.constant(labels[batch].astype(np.int32))
            seed = tf.constant([self._seed, start])
            logits.append(attack(values, truth, tf.constant(epsilon, tf.float32), seed).numpy())
        return np.concatenate(logits)

    def _step_once(
        self, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        changed = images + epsilon * tf.sign(self._gradient(images, labels))
        return self._logits(tf.clip_by_value(changed, 0.0, 1.0))

    def _ascend(self, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        low = tf.maximum(images - epsilon, 0.0)
        high = tf.minimum(images + epsilon, 1.0)
        start = images + tf.random.stateless_uniform(tf.shape(images), seed, -1, 1, alg="philox") * epsilon
        step = 2.5 * epsilon / STEPS

        def ascend(i: tf.Tensor, changed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = changed + step * tf.sign(self._gradient(changed, labels))
            return i + 1, tf.clip_by_value(moved, low, high)

        _, changed = tf.while_loop(
            lambda i, _: i < STEPS, ascend, (tf.constant(0), tf.clip_by_value(start, low, high))
        )
        return self._logits(changed)

    def _logits(self, images: tf.Tensor) -> tf.Tensor:
        if self._predict is None:
            return self._model(images * 255.0, training=False)
        return self._predict(self._model, images * 255.0)

    def _gradient(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self._logits(images))
            loss = tf.reduce_sum(losses)
        gradient = tape.gradient(loss, images)
        if gradient is None:
            raise UsageError(
                "--robustness needs a gradient, and the recipe's `predict` has none. Let it compute on "
                "floating-point images too, without rounding them."
            )
        return gradient


@dataclasses.dataclass(frozen=True)
class CorruptionResult:
    """Accuracy under one corruption: by severity, and the mean."""

    name: str
    family: str
    accuracy: tuple[float, ...]
    mean: float


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """Accuracy under one attack, by strength."""

    name: str
    accuracy: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Accuracies on the same images: clean, corrupted and attacked.

    Attributes:
        images: number of images, a stratified sample of the split.
        mean_corrupted: mean over all corruptions and severities.
        epsilons_255: largest changes of a value by an attack, in 255ths.
    """

    images: int
    seed: int
    clean: float
    severities: tuple[int, ...]
    corruptions: tuple[CorruptionResult, ...]
    mean_corrupted: float
    epsilons_255: tuple[int, ...]
    attacks: tuple[AttackResult, ...]
    weights_sha256: str


def measure_robustness(
    subject: Subject, count: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Robustness:
    """Measure a model on corrupted and attacked images of its split.

    Args:
        subject: the model and the split.
        count: maximum number of images.
        on_progress: called with (done, total) after each measurement.
    """
    split = subject.split
    chosen = stratified_limit(split.labels, min(count, len(split)))
    images, labels = np.ascontiguousarray(split.images[chosen]), split.labels[chosen]
    total = len(CORRUPTIONS) * len(SEVERITIES) + 2 * len(EPSILONS)
    done = 0

    def measure(logits: np.ndarray) -> float:
        nonlocal done
        done += 1
        on_progress(done, total)
        return metrics.accuracy(logits, labels)

    corruptions = []
    for name, corruption in CORRUPTIONS.items():
        accuracy = tuple(
            measure(subject.predict_logits(corrupt(images, name, severity, SEED))) for severity in SEVERITIES
        )
        mean = float(np.mean(accuracy))
        corruptions.append(CorruptionResult(name, corruption.family, accuracy, mean))
    # Always in float32: bfloat16 rounds steps of a quarter of a 255th away, and an attack that fails
    # because of rounding makes a network look robust.
    attacker = Attacker(to_float32(subject.model), subject.recipe.predict)
    attacks = tuple(
        AttackResult(name, tuple(measure(attack(images, labels, epsilon / 255)) for epsilon in EPSILONS))
        for name, attack in (("FGSM", attacker.fgsm), ("PGD", attacker.pgd))
    )
    return Robustness(
        images=len(labels),
        seed=SEED,
        clean=metrics.accuracy(subject.logits[chosen], labels),
        severities=SEVERITIES,
        corruptions=tuple(corruptions),
        mean_corrupted=float(np.mean([result.accuracy for result in corruptions])),
        epsilons_255=EPSILONS,
        attacks=attacks,
        weights_sha256=subject.weights_sha256,
    )
