"""The metrics of an epoch, declared once, and what follows from them: warnings, and the end of a run.

history.csv, TensorBoard, the screen and a run's result all use the table of metrics. Importing this does not
import TensorFlow.
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
    """The measurements of a complete epoch, from which the metrics are computed.

    Attributes:
        loss, accuracy: of the training images, during training.
        val_loss, val_accuracy: of the validation images, after the epoch.
        val_logits: of the validation images, float32 [N, classes].
        val_labels: uint8 [N].
        learning_rate: of the last step.
        images: training images.
        training_seconds: of its steps.
        seconds: of its steps and of validation.
        compile_seconds: included in neither.
        gpu: statistics of the GPU; None without one.
        energy_joules: used by the GPU, in all processes that trained this epoch.
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
        split: the run of TensorBoard that it belongs to.
        tag: its name there, below that of its group of cards; TensorBoard sorts the groups by name.
        of: computes its value from a complete epoch.
        show: formats its value for the screen, perhaps as an empty text; None never shows it.
        in_result: whether a run's result gives it, for the epoch whose weights the model has.
    """

    name: str
    split: Literal["train", "validation"]
    tag: str
    of: Callable[[CompleteEpoch], float | None]
    show: Callable[[float], str] | None = None
    in_result: bool = False


#: In the order of history.csv's columns, after `epoch`. Those of a GPU are None without one.
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
        losses: the mean loss of each step, float32 [steps].
        correct: the images of each step that were classified correctly, int32 [steps].
        sizes: the images of each step, int64 [steps].
    """
    images = int(sizes.sum())
    # In float64 and in one piece, so that the sum does not depend on how the steps were chunked.
    return float(losses.astype("float64") @ sizes) / images, int(correct.sum()) / images


def history_row(number: int, epoch: CompleteEpoch) -> dict[str, Any]:
    """The row of a complete epoch; its number counts from 1."""
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
    """One line about a complete epoch; it begins with the `seed` if the row has one."""
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
    """The figures of `train` or `validation` that a run's result gives, from the row of its epoch."""
    return {
        metric.name.removeprefix("val_"): row[metric.name]
        for metric in METRICS
        if metric.split == split and metric.in_result
    }


#: An accuracy up to this far above the largest class's share is chance.
CHANCE_MARGIN = 0.02
#: Steps within which a network may still have learned nothing, unless its loss is this many times chance's.
PATIENT_STEPS, DIVERGED = 200, 2.0
#: A largest class of this many times the mean share makes accuracy misleading.
IMBALANCE = 1.5
#: A suspicious lead of training over validation in the first epochs.
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
    """What a user should know about an epoch that went wrong without an error; name to message.

    Args:
        row: of the history.
        shares: each class's share of the training images.
        config: the run's settings.
        default_rate: the recipe's learning rate.
        steps: of the run so far.
        predicted_classes: classes that the validation images were classified as.
    """
    found = {}
    epoch, accuracy, validation = row["epoch"], row["accuracy"], row["val_accuracy"]
    chance = max(shares)
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    if predicted_classes == 1 and chance * len(shares) > IMBALANCE:
        found["one class"] = (
            f"All validation images were classified as the same class by the end of epoch {epoch}, and the "
            f"largest class has {chance:.2%} of the training images: the accuracy of {validation:.2%} shows "
            "nothing. Try --class-weights balanced, or more images of the other classes."
        )
    elif (
        max(accuracy, validation) < chance + CHANCE_MARGIN
        and row["loss"] > 0.98 * entropy
        and (steps >= PATIENT_STEPS or row["loss"] > DIVERGED * entropy)
    ):
        rates = f"it is {config.learning_rate:g}, the recipe's own is {default_rate:g}"
        if config.learning_rate > default_rate:
            remedy = f"Try a lower --learning-rate: {rates}."
        elif config.learning_rate < default_rate:
            remedy = f"Try a higher --learning-rate ({rates}) or more --epochs."
        else:
            remedy = "Try more --epochs or images, another --seed, or a lower --learning-rate."
        found["nothing learned"] = (
            f"The network has learned nothing by the end of epoch {epoch}: training accuracy {accuracy:.2%}, "
            f"validation {validation:.2%}, chance {chance:.2%}. {remedy}"
        )
    if epoch <= EARLY_EPOCHS and accuracy - validation > GAP:
        found["far above validation"] = (
            f"Training accuracy {accuracy:.2%} is far above validation {validation:.2%} as early as epoch "
            f"{epoch}. Train on more images, or check that the validation images are of the same kind."
        )
    return found


def reason_to_end(
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    *,
    config: Settings,
    options: RuntimeOptions,
    note: Callable[[str], None],
) -> str | None:
    """Why no further epoch begins: `patience`, `time limit`, `end_after`; None if there is no reason.

    It depends on the history and the clock only, which checkpoints hold.

    Args:
        history: the rows of the complete epochs.
        seconds: spent so far, with compilation.
        config: holds the patience.
        options: hold the time limit, and the epoch after which a sweep ends the run.
        note: receives the reason in a sentence.
    """
    if not history:
        return None
    done, epochs, patience, limit = len(history), config.epochs, config.patience, options.time_limit
    best = best_epoch(history)
    if patience is not None and done - best >= patience:
        note(
            f"Training ends after epoch {done} of {epochs}: validation accuracy was highest in epoch "
            f"{best}, and --patience is {patience}."
        )
        return "patience"
    if limit is not None and seconds + history[-1]["seconds"] > limit:
        note(
            f"Training ends after epoch {done} of {epochs}: {seconds:.1f} s are spent, and another epoch "
            f"does not fit into --time-limit ({limit:g} s)."
        )
        return "time limit"
    return "end_after" if options.end_after == done else None


def not_finite(what: str, epoch: int, step: int, steps: int, precision: str) -> TrainingError:
    """The error for a loss or a weight that is not finite.

    Args:
        what: the loss or the weight, as the start of the sentence.
        epoch: the epoch in which it was found.
        step: of that epoch.
        steps: per epoch.
        precision: as `--precision` names it.
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
    """The error for a device that lacks the memory for a batch.

    Args:
        batch_size: images in the batch.
        epoch: the epoch in which it happened.
        step: of that epoch.
        seeds: seeds that are trained in one program.
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
