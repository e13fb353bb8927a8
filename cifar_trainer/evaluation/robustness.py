"""Accuracy under corruptions and under attacks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer import metrics
from cifar_trainer.data.splits import stratified_limit
from cifar_trainer.evaluation.corruptions import FAMILIES, SEVERITIES, corrupt
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.model import to_float32

#: Iterations of PGD; each step is 2.5 · epsilon / STEPS long (Madry et al. 2018, as in their code).
STEPS = 10
BATCH_SIZE = 500


class Attacker:
    """Attacks a model.

    Args:
        model: uint8 [N, 32, 32, 3] to logits [N, classes], whose first layer takes 0 to 255.
        seed: of PGD's random starts.
    """

    def __init__(self, model: keras.Model, seed: int = 0) -> None:
        # The same network on pictures that need not be whole numbers, so that there is a gradient.
        self._model = keras.models.clone_model(model, input_tensors=keras.Input((32, 32, 3), dtype="float32"))
        self._model.set_weights(model.get_weights())
        self._seed = seed
        gpu = bool(tf.config.get_visible_devices("GPU"))
        self._compiled_fgsm = tf.function(self._fgsm, autograph=False, jit_compile=gpu)
        self._compiled_pgd = tf.function(self._pgd, autograph=False, jit_compile=gpu)

    def fgsm(self, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
        """One step along the sign of the gradient (Goodfellow et al. 2015, section 4).

        Args:
            images: uint8 [N, 32, 32, 3].
            labels: integer [N].
            epsilon: the most that a value changes, of 0 to 1.

        Returns:
            The logits of the changed pictures, float32 [N, classes].
        """
        return np.concatenate(
            [
                self._compiled_fgsm(pictures, truth, tf.constant(epsilon, tf.float32)).numpy()
                for pictures, truth, _ in _batches(images, labels)
            ]
        )

    def pgd(self, images: np.ndarray, labels: np.ndarray, epsilon: float) -> np.ndarray:
        """Many small steps from a random start, kept within epsilon (Madry et al. 2018, section 2.1).

        Arguments and result as of `fgsm`.
        """
        return np.concatenate(
            [
                self._compiled_pgd(
                    pictures, truth, tf.constant(epsilon, tf.float32), tf.constant([self._seed, start])
                ).numpy()
                for pictures, truth, start in _batches(images, labels)
            ]
        )

    def _fgsm(self, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
        changed = images + epsilon * tf.sign(self._gradient(images, labels))
        return self._logits(tf.clip_by_value(changed, 0.0, 1.0))

    def _pgd(self, images: tf.Tensor, labels: tf.Tensor, epsilon: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
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
        return self._model(images * 255.0, training=False)

    def _gradient(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, self._logits(images))
            loss = tf.reduce_sum(losses)
        return tape.gradient(loss, images)


def _batches(images: np.ndarray, labels: np.ndarray) -> list[tuple[tf.Tensor, tf.Tensor, int]]:
    starts = range(0, len(images), BATCH_SIZE)
    return [
        (
            tf.constant(images[start : start + BATCH_SIZE].astype(np.float32) / np.float32(255)),
            tf.constant(labels[start : start + BATCH_SIZE].astype(np.int32)),
            start,
        )
        for start in starts
    ]


#: The most that an attack changes a value, in 255ths.
EPSILONS = (1, 2, 4, 8)
SEED = 0


@dataclasses.dataclass(frozen=True)
class CorruptionResult:
    """Accuracy under one corruption, by severity 1 to 5."""

    name: str
    family: str
    accuracy: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.accuracy))


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """Accuracy under one attack, by `EPSILONS`."""

    name: str
    accuracy: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Robustness:
    """Accuracies on the same images, unspoilt and spoilt.

    Attributes:
        images: their number; the first of the split, stratified.
        seed: of every random draw.
        clean: the accuracy on them as they are.
        corruptions: in the paper's order.
        attacks: FGSM and PGD.
        weights_sha256: of the model that was measured.
    """

    images: int
    seed: int
    clean: float
    corruptions: tuple[CorruptionResult, ...]
    attacks: tuple[AttackResult, ...]
    weights_sha256: str

    @property
    def mean(self) -> float:
        """The mean over all corruptions and severities."""
        return float(np.mean([result.accuracy for result in self.corruptions]))

    def to_json(self) -> dict[str, Any]:
        """The results as a JSON object."""
        return {
            **dataclasses.asdict(self),
            "severities": list(SEVERITIES),
            "epsilons_255": list(EPSILONS),
            "mean_corrupted": self.mean,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Robustness":
        """The results that `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls(
            images=int(value["images"]),
            seed=int(value["seed"]),
            clean=float(value["clean"]),
            corruptions=tuple(
                CorruptionResult(c["name"], c["family"], tuple(map(float, c["accuracy"])))
                for c in value["corruptions"]
            ),
            attacks=tuple(
                AttackResult(a["name"], tuple(map(float, a["accuracy"]))) for a in value["attacks"]
            ),
            weights_sha256=str(value["weights_sha256"]),
        )


def measure_robustness(
    subject: Subject, count: int, on_progress: Callable[[int, int], None] | None = None
) -> Robustness:
    """Measure a model on corrupted and attacked images of its split.

    Args:
        subject: the model and the split.
        count: images to take; all, where there are fewer.
        on_progress: told (done, total) after each measurement.
    """
    chosen = stratified_limit(subject.labels, min(count, len(subject.labels)))
    images, labels = np.ascontiguousarray(subject.images[chosen]), subject.labels[chosen]
    total = sum(map(len, FAMILIES.values())) * len(SEVERITIES) + 2 * len(EPSILONS)
    done = 0

    def measured(logits: np.ndarray) -> float:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)
        return metrics.accuracy(logits, labels)

    corruptions = tuple(
        CorruptionResult(
            name,
            family,
            tuple(
                measured(subject.predictor(corrupt(images, name, severity, SEED))) for severity in SEVERITIES
            ),
        )
        for family, names in FAMILIES.items()
        for name in names
    )
    # In float32 whatever it was trained in: a step of a quarter of a 255th is lost in bfloat16, and an
    # attack that stumbles over rounding makes a network look robust.
    attacker = Attacker(to_float32(subject.model), SEED)
    attacks = tuple(
        AttackResult(name, tuple(measured(attack(images, labels, epsilon / 255)) for epsilon in EPSILONS))
        for name, attack in (("FGSM", attacker.fgsm), ("PGD", attacker.pgd))
    )
    return Robustness(
        images=len(labels),
        seed=SEED,
        clean=metrics.accuracy(subject.logits[chosen], labels),
        corruptions=corruptions,
        attacks=attacks,
        weights_sha256=subject.weights_sha256,
    )
