"""The table of an epoch's metrics, and decisions based on them: warnings and early stopping.

history.csv, TensorBoard, the screen and a run's result all use this table. Importing this does not import
TensorFlow.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cifar_trainer import files
from cifar_trainer.errors import TrainingError
from cifar_trainer.settings import RuntimeOptions, Settings

if TYPE_CHECKING:
    import numpy as np

    from cifar_trainer.devices.telemetry import Reading


@dataclasses.dataclass(frozen=True, eq=False)
class CompleteEpoch:
    """The measurements of a complete epoch, from which its metrics are computed.

    Attributes:
        loss, accuracy: on the training images, during training.
        val_loss, val_accuracy: on the validation images, after the epoch; None if it was not validated.
        val_logits: logits of the validation images, float32 [N, classes].
        val_labels: labels of the validation images, uint8 [N].
        learning_rate: learning rate of the last step.
        images: number of training images.
        training_seconds: duration of the steps.
        seconds: duration of the steps and of validation.
        compile_seconds: duration of compilation, included in neither.
        gpu: GPU statistics; its values are None without a GPU.
        energy_joules: energy used by the GPU, including earlier processes that trained part of this epoch.
    """

    loss: float
    accuracy: float
    val_loss: float | None
    val_accuracy: float | None
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
    """One metric of an epoch.

    Attributes:
        name: its column in history.csv and its key in callbacks' logs.
        split: its TensorBoard run.
        tag: its TensorBoard tag, GROUP/NAME; TensorBoard sorts the groups by name.
        of: computes its value from a complete epoch.
        show: formats its value for the screen (an empty string hides it); None never shows it.
        in_result: whether a run's result includes it, for the selected epoch.
    """

    name: str
    split: Literal["train", "validation"]
    tag: str
    of: Callable[[CompleteEpoch], float | None]
    show: Callable[[float], str] | None = None
    in_result: bool = False


#: In the order of history.csv's columns, after `epoch`. GPU metrics are None without a GPU.
METRICS = (
    Metric("loss", "train", "epoch/loss", lambda e: e.loss, "loss {:.4f}".format, True),
    Metric("accuracy", "train", "epoch/accuracy", lambda e: e.accuracy, "accuracy {:6.2%}".format, True),
    Metric("val_loss", "validation", "epoch/loss", lambda e: e.val_loss, "val_loss {:.4f}".format, True),
    Metric(
        "val_accuracy", "validation", "epoch/accuracy", lambda e: e.val_accuracy,
        "val_accuracy {:6.2%}".format, True,
    ),
    Metric("learning_rate", "train", "epoch/learning_rate", lambda e: e.learning_rate),
    Metric(
        "images_per_second", "train", "speed/images_per_second", lambda e: e.images / e.training_seconds,
        "{:,.0f} images/s".format,
    ),
    Metric("seconds", "train", "speed/seconds", lambda e: e.seconds, "{:.1f} s".format),
    Metric(
        "gpu_utilization", "train", "gpu/utilization_percent", lambda e: e.gpu.utilization,
        "GPU {:.0f} %".format,
    ),
    Metric("gpu_memory_mib", "train", "gpu/memory_mib", lambda e: e.gpu.memory_mib),
    Metric("power_watts", "train", "gpu/power_watts", lambda e: e.gpu.power_watts, "{:.0f} W".format),
    Metric("energy_joules", "train", "gpu/energy_joules", lambda e: e.energy_joules, "{:,.0f} J".format),
    Metric(
        "compile_seconds", "train", "speed/compile_seconds", lambda e: e.compile_seconds,
        lambda s: f"compiled in {s:.1f} s" if s >= 0.05 else "",
    ),
)  # fmt: skip


def training_metrics(losses: "np.ndarray", correct: "np.ndarray", sizes: "np.ndarray") -> tuple[float, float]:
    """Mean loss and accuracy over the images of some steps.

    Args:
        losses: mean loss of each step, float32 [steps].
        correct: number of correctly classified images of each step, int32 [steps].
        sizes: number of images of each step, int64 [steps].
    """
    images = int(sizes.sum())
    # One float64 sum over all steps, so that the result does not depend on the chunks.
    return float(losses.astype("float64") @ sizes) / images, int(correct.sum()) / images


def history_row(number: int, epoch: CompleteEpoch) -> dict[str, Any]:
    """The history row of a complete epoch, whose number counts from 1."""
    row: dict[str, Any] = {"epoch": number}
    for metric in METRICS:
        is_known = metric.split == "train" or epoch.val_loss is not None
        row[metric.name] = metric.of(epoch) if is_known else None
    return row


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace the file with a header and `rows`; None becomes an empty field.

    Raises:
        OSError: the file cannot be written; the old one is untouched.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ("epoch", *(metric.name for metric in METRICS)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, buffer.getvalue())


def format_epoch(row: Mapping[str, Any], epochs: int) -> str:
    """One line about a complete epoch; it starts with the `seed` if the row has one."""
    shown = [
        metric.show(row[metric.name])
        for metric in METRICS
        if metric.show is not None and row.get(metric.name) is not None
    ]
    seed = [f"seed {row['seed']:<4}"] if "seed" in row else []
    return "  ".join([*seed, f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}", *filter(None, shown)])


def best_epoch(rows: Sequence[Mapping[str, Any]]) -> int:
    """The first epoch, from 1, with the highest validation accuracy; `rows` must not be empty."""
    accuracies = [row["val_accuracy"] for row in rows]
    return accuracies.index(max(accuracies)) + 1


def result_figures(row: Mapping[str, Any], split: str) -> dict[str, float]:
    """The metrics of `train` or `validation` for a run's result, from the selected epoch's row."""
    return {
        metric.name.removeprefix("val_"): row[metric.name]
        for metric in METRICS
        if metric.split == split and metric.in_result
    }


#: An accuracy up to this much above the largest class's share counts as chance.
CHANCE_MARGIN = 0.02
#: Warn about chance accuracy after this many steps, or if the loss exceeds that of chance by this factor.
PATIENT_STEPS, DIVERGED = 200, 2.0
#: Accuracy is misleading if the largest class exceeds this multiple of the mean class size.
IMBALANCE = 1.5
#: A gap between training and validation accuracy that is suspicious in the first epochs.
GAP, EARLY_EPOCHS = 0.2, 3


def concerns(
    row: Mapping[str, Any],
    shares: Sequence[float],
    config: Settings,
    default_rate: float,
    *,
    steps: int,
    predicted_classes: int,
) -> dict[str, str]:
    """Warnings about an epoch that went wrong without an error: messages by name.

    Args:
        row: the epoch's row in the history.
        shares: each class's share of the training images.
        config: the run's settings.
        default_rate: the recipe's learning rate.
        steps: number of steps of the run so far.
        predicted_classes: number of classes that were predicted for the validation images.
    """
    warnings: dict[str, str] = {}
    epoch, accuracy, validation = row["epoch"], row["accuracy"], row["val_accuracy"]
    if validation is None:
        return warnings
    chance = max(shares)
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    if predicted_classes == 1 and chance * len(shares) > IMBALANCE:
        warnings["one class"] = (
            f"All validation images were classified as the same class by the end of epoch {epoch}, and the "
            f"largest class has {chance:.2%} of the training images, so the accuracy of {validation:.2%} is "
            "meaningless. Try --class-weights balanced, or more images of the other classes."
        )
    elif (
        max(accuracy, validation) < chance + CHANCE_MARGIN
        and row["loss"] > 0.98 * entropy
        and (steps >= PATIENT_STEPS or row["loss"] > DIVERGED * entropy)
    ):
        rates = f"it is {config.learning_rate:g}, the recipe's is {default_rate:g}"
        if config.learning_rate > default_rate:
            remedy = f"Try a lower --learning-rate: {rates}."
        elif config.learning_rate < default_rate:
            remedy = f"Try a higher --learning-rate ({rates}) or more --epochs."
        else:
            remedy = "Try more --epochs or images, another --seed, or a lower --learning-rate."
        warnings["nothing learned"] = (
            f"The network has learned nothing by the end of epoch {epoch}: training accuracy {accuracy:.2%}, "
            f"validation {validation:.2%}, chance {chance:.2%}. {remedy}"
        )
    if epoch <= EARLY_EPOCHS and accuracy - validation > GAP:
        warnings["far above validation"] = (
            f"Training accuracy {accuracy:.2%} is far above validation {validation:.2%} as early as epoch "
            f"{epoch}. Train on more images, or check that the validation images are of the same kind."
        )
    return warnings


def reason_to_end(
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    *,
    config: Settings,
    options: RuntimeOptions,
    note: Callable[[str], None],
) -> str | None:
    """Why training ends before the next epoch: `patience`, `time limit` or `end_after`; None to continue.

    Depends only on the history and the clock, which checkpoints contain.

    Args:
        history: rows of the complete epochs.
        seconds: time spent so far, including compilation.
        config: its `patience` is used.
        options: their `time_limit` and `end_after` are used.
        note: receives the reason as a sentence.
    """
    if not history:
        return None
    done, epochs, patience, limit = len(history), config.epochs, config.patience, options.time_limit
    if patience is not None and done - (best := best_epoch(history)) >= patience:
        note(
            f"Training ends after epoch {done} of {epochs}: validation accuracy was highest in epoch "
            f"{best}, and --patience is {patience}."
        )
        return "patience"
    if limit is not None and seconds + history[-1]["seconds"] > limit:
        note(
            f"Training ends after epoch {done} of {epochs}: {seconds:.1f} s have passed, and another epoch "
            f"does not fit into --time-limit ({limit:g} s)."
        )
        return "time limit"
    return "end_after" if options.end_after == done else None


def not_finite(what: str, epoch: int, step: int, steps: int, precision: str) -> TrainingError:
    """The error for a loss or weight that is not finite.

    Args:
        what: the loss or weight, as the subject of the message.
        epoch, step: where it was detected, from 1.
        steps: steps per epoch.
        precision: the value of `--precision`.
    """
    other = ", or with --precision bfloat16" if precision == "float16" else ""
    return TrainingError(
        f"{what} is not finite at epoch {epoch}, step {step} of {steps}. "
        "This step was not saved; the last checkpoint predates it. "
        f"Start a new run with a lower --learning-rate{other}.",
        epoch,
        step,
    )


def out_of_memory(batch_size: int, epoch: int, step: int, seeds: int) -> TrainingError:
    """The error for a device without enough memory for a batch.

    Args:
        batch_size: images per batch.
        epoch, step: where it happened, from 1.
        seeds: number of seeds trained in one program.
    """
    received, advice = f"--batch-size {batch_size}", f"--batch-size {max(1, batch_size // 2)}"
    if seeds > 1:
        received, advice = f"{received} and {seeds} seeds at once", "fewer --seeds, or --stack off"
    return TrainingError(
        f"The device ran out of memory with {received}, at epoch {epoch}, step {step}. "
        f"Try {advice}. The last checkpoint is kept.",
        epoch,
        step,
    )
