"""How accuracy falls when pictures are spoilt, by the world or on purpose."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from cifar_trainer import metrics
from cifar_trainer.data.splits import stratified_limit
from cifar_trainer.evaluation.attacks import Attacker
from cifar_trainer.evaluation.corruptions import FAMILIES, SEVERITIES, corrupt
from cifar_trainer.evaluation.subject import Subject
from cifar_trainer.prediction.keras_model import to_float32

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
