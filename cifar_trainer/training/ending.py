"""When a run ends early, the errors that stop it, and which epoch's weights it keeps."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cifar_trainer.errors import TrainingError
from cifar_trainer.settings import RuntimeOptions, Settings
from cifar_trainer.training.history import best_epoch


def reason_to_end(
    history: Sequence[Mapping[str, Any]],
    seconds: float,
    epochs: int,
    *,
    config: Settings,
    options: RuntimeOptions,
    note: Callable[[str], None],
) -> str | None:
    """Why no further epoch is to be begun: `patience`, `time limit`, `end_after`; None for no reason.

    It follows from the history and the clock, which a checkpoint holds.

    Args:
        history: the rows of the complete epochs.
        seconds: spent so far, compilation included.
        epochs: those that were asked for.
        config: holds the patience.
        options: hold the time limit, and the epoch after which a sweep ends the run.
        note: told the reason in a sentence.
    """
    if not history:
        return None
    done, patience, limit = len(history), config.patience, options.time_limit
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


def kept_epoch(digests: Mapping[int, str], digest: str, last: int) -> int | None:
    """The epoch whose weights the model has; None where it has those of no epoch's end.

    A callback may have put others back than those of the last epoch.

    Args:
        digests: of the weights that were validated, by epoch; without any, nothing was trained here.
        digest: of the weights that the model has.
        last: the last epoch.
    """
    if not digests or digests.get(last) == digest:
        return last
    return max((epoch for epoch, known in digests.items() if known == digest), default=None)


def not_finite(what: str, epoch: int, step: int, steps: int, precision: str) -> TrainingError:
    """The error for a loss or a weight that is not finite.

    Args:
        what: the loss or the weight, as the sentence begins.
        epoch: in which it was found.
        step: of that epoch.
        steps: of an epoch.
        precision: as `--precision` names it.
    """
    other = ", or with --precision bfloat16" if precision == "float16" else ""
    return TrainingError(
        f"{what} is not finite at epoch {epoch}, step {step} of {steps}. "
        "Nothing of it was saved; the last checkpoint is from before. "
        f"Train anew with a lower --learning-rate{other}.",
        epoch,
        step,
    )


def out_of_memory(batch_size: int, epoch: int, step: int, seeds: int) -> TrainingError:
    """The error for a device whose memory does not suffice for a batch.

    Args:
        batch_size: images in the batch.
        epoch: in which it happened.
        step: of that epoch.
        seeds: that are trained side by side.
    """
    asked, advice = f"--batch-size {batch_size}", f"--batch-size {max(1, batch_size // 2)}"
    if seeds > 1:
        asked, advice = f"{asked} and {seeds} seeds at once", "fewer --seeds, or --stack off"
    return TrainingError(
        f"The device ran out of memory with {asked}, at epoch {epoch}, step {step}. "
        f"Try {advice}. The last checkpoint is kept.",
        epoch,
        step,
    )
