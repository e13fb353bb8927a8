"""What is measured in each epoch, declared once: history.csv, TensorBoard and the screen follow from it.

Imports no TensorFlow.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cifar_trainer import files
from cifar_trainer.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from cifar_trainer.devices.telemetry import Reading


@dataclasses.dataclass(frozen=True, eq=False)
class CompleteEpoch:
    """What is known once an epoch is complete; the metrics follow from it.

    Attributes:
        loss, accuracy: of the training images, as they were trained on.
        val_loss, val_accuracy: of the validation images, after the epoch.
        val_logits: of the validation images, float32 [N, classes].
        val_labels: uint8 [N].
        learning_rate: of the last step.
        images: training images.
        training_seconds: of its steps.
        seconds: of its steps and of validation.
        compile_seconds: which are in neither.
        gpu: what the GPU did meanwhile; its figures are None without one.
        energy_joules: that the GPU took, in all processes that trained this epoch.
    """

    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    val_logits: "np.ndarray"
    val_labels: "np.ndarray"
    learning_rate: float
    images: int
    training_seconds: float
    seconds: float
    compile_seconds: float
    gpu: "Reading"
    energy_joules: float | None


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of an epoch.

    Attributes:
        name: its column in history.csv and its key in callbacks' logs.
        split: the part of TensorBoard that it belongs to.
        tag: its name there.
        of: its value, from a complete epoch.
        show: its value to a few words for the screen, or to nothing; None never shows it.
    """

    name: str
    split: Literal["train", "validation"]
    tag: str
    of: Callable[[CompleteEpoch], float | None]
    show: Callable[[float], str] | None = None


#: In the order of history.csv's columns, in which `epoch` comes first. A GPU's are None without one.
METRICS = (
    Metric("loss", "train", "epoch_loss", lambda e: e.loss, "loss {:.4f}".format),
    Metric("accuracy", "train", "epoch_accuracy", lambda e: e.accuracy, "accuracy {:6.2%}".format),
    Metric("val_loss", "validation", "epoch_loss", lambda e: e.val_loss, "val_loss {:.4f}".format),
    Metric(
        "val_accuracy", "validation", "epoch_accuracy", lambda e: e.val_accuracy,
        "val_accuracy {:6.2%}".format,
    ),
    Metric("learning_rate", "train", "epoch_learning_rate", lambda e: e.learning_rate),
    Metric(
        "images_per_second", "train", "images_per_second", lambda e: e.images / e.training_seconds,
        "{:,.0f} images/s".format,
    ),
    Metric("seconds", "train", "seconds", lambda e: e.seconds, "{:.1f} s".format),
    Metric(
        "gpu_utilization", "train", "gpu/utilization_percent", lambda e: e.gpu.utilization,
        "GPU {:.0f} %".format,
    ),
    Metric("gpu_memory_mib", "train", "gpu/memory_mib", lambda e: e.gpu.memory_mib),
    Metric("power_watts", "train", "gpu/power_watts", lambda e: e.gpu.power_watts, "{:.0f} W".format),
    Metric("energy_joules", "train", "gpu/energy_joules", lambda e: e.energy_joules, "{:,.0f} J".format),
    Metric(
        "compile_seconds", "train", "compile_seconds", lambda e: e.compile_seconds,
        lambda s: f"compiled in {s:.1f} s" if s >= 0.05 else "",
    ),
)  # fmt: skip


def history_row(number: int, epoch: CompleteEpoch) -> dict[str, Any]:
    """The row of a complete epoch, which is the `number`th, from 1."""
    return {"epoch": number, **{metric.name: metric.of(epoch) for metric in METRICS}}


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file by a header and `rows`; None becomes an empty field.

    Raises:
        OSError: it could not be written; the old file is untouched.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ("epoch", *(metric.name for metric in METRICS)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, buffer.getvalue())


def format_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """One line about a complete epoch; a `seed` in the row comes first."""
    shown = [
        metric.show(row[metric.name])
        for metric in METRICS
        if metric.show is not None and row.get(metric.name) is not None
    ]
    seed = [f"seed {row['seed']:<4}"] if "seed" in row else []
    return "  ".join([*seed, f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}", *filter(None, shown)])


def best_epoch(rows: Sequence[Mapping[str, Any]]) -> int:
    """The first epoch, from 1, with the highest validation accuracy of `rows`, which are at least one."""
    accuracies = [row["val_accuracy"] for row in rows]
    return accuracies.index(max(accuracies)) + 1


#: A training accuracy no further than this above the largest class's share is chance.
CHANCE_MARGIN = 0.02
#: Steps before which a network that has learned nothing yet is nothing strange.
PATIENT_STEPS = 200
#: How far training may lie above validation in the first epochs.
GAP, EARLY_EPOCHS = 0.2, 3


def concerns(
    row: Mapping[str, Any], shares: Sequence[float], config: Settings, default_rate: float
) -> dict[str, str]:
    """What a user should know about an epoch that went wrong without an error; name to message.

    Args:
        row: of the history.
        shares: each class's part of the training images.
        config: the run's settings.
        default_rate: the recipe's own learning rate.
    """
    found = {}
    epoch, accuracy, validation = row["epoch"], row["accuracy"], row["val_accuracy"]
    chance = max(shares)
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    if accuracy < chance + CHANCE_MARGIN and row["loss"] > 0.98 * entropy:
        rates = f"it is {config.learning_rate:g}, the recipe's own is {default_rate:g}"
        if config.learning_rate > default_rate:
            remedy = f"Try a lower --learning-rate: {rates}."
        elif config.learning_rate < default_rate:
            remedy = f"Try a higher --learning-rate ({rates}) or more --epochs."
        else:
            remedy = "Try more --epochs or images, another --seed, or a lower --learning-rate."
        found["nothing learned"] = (
            f"The network has learned nothing by the end of epoch {epoch}: training accuracy {accuracy:.2%}, "
            f"chance {chance:.2%}. {remedy}"
        )
    if epoch <= EARLY_EPOCHS and accuracy - validation > GAP:
        found["far above validation"] = (
            f"Training accuracy {accuracy:.2%} is far above validation {validation:.2%} as early as epoch "
            f"{epoch}. Train on more images, or check that the validation images are of the same kind."
        )
    return found
