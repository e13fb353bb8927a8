"""A worker of a sweep: a process that trains the runs that the `sweep` command sends.

    python -m cifar_trainer.sweeps.worker      (started by `pool`)

The two exchange lines of JSON through the worker's standard input and output. The command sends `job`;
`continue`, true or false, in answer to each `epoch`; and `continue`, false, at any time to stop the run. The
worker sends `started`, `epoch`, `note` and `warn`, and one of `done`, `stopped`, `failed` and `fatal` at the
end of a job. If the command dies, standard input ends: the worker saves and exits.
"""

import contextlib
import dataclasses
import io
import json
import os
import select
import shlex
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifar_trainer import errors, process
from cifar_trainer.devices import Device
from cifar_trainer.run import Run, TrainResult, open_run
from cifar_trainer.settings import Settings
from cifar_trainer.training import api
from cifar_trainer.training.reporter import TrainingReporter

#: Time for a worker to save after its command has died.
SECONDS_TO_SAVE = 30.0
#: Arguments that a resumed run takes from the current command.
_OF_THIS_MACHINE = ("data_dir", "device", "checkpoint_every", "end_after")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to train.

    Attributes:
        settings: the arguments of `train`, without the folder.
        run_dir: the run's folder. A run in it is resumed.
        command_line: recorded in environment.json.
        evaluate: after training, measure the test accuracy and return it as the value.
        verbose: show TensorFlow's own messages.
    """

    settings: dict[str, Any]
    run_dir: str
    command_line: tuple[str, ...] = ()
    evaluate: bool = False
    verbose: bool = False


class Command:
    """The worker's connection to its `sweep` command.

    Args:
        incoming, outgoing: file descriptors.
    """

    def __init__(self, incoming: int, outgoing: int) -> None:
        # Unbuffered, so that `select` sees every unread message.
        self._incoming = io.FileIO(incoming, closefd=False)
        self._outgoing = outgoing

    def send(self, kind: str, **content: Any) -> None:
        """Send a message. Ignores a dead command, whose death ends standard input."""
        with contextlib.suppress(OSError):
            os.write(self._outgoing, json.dumps({"kind": kind, **content}).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Wait for a message; None if the command has ended."""
        line = self._incoming.readline()
        return json.loads(line) if line else None

    def has_message(self) -> bool:
        """Whether there is a message, or the command has ended."""
        return bool(select.select([self._incoming], [], [], 0)[0])


class _Reporter(TrainingReporter):
    """Reports to the command, and asks it after each epoch whether to continue."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._ended = False

    def note(self, text: str) -> None:
        self._command.send("note", text=text)

    def warn(self, text: str) -> None:
        self._command.send("warn", text=text)

    def run_started(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._command.send("started", run_dir=str(run.path))

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self._command.send("epoch", epoch=row["epoch"], accuracy=row["val_accuracy"])
        answer = self._command.receive()
        self._ended = answer is None or not answer["continue"]

    def should_stop(self) -> bool:
        """Whether the command has ended or has stopped this run."""
        # Apart from the answers to epochs, the only message is the one that stops the run.
        return self._ended or self._command.has_message()


def train_job(job: Job, command: Command) -> None:
    """Train or resume one run, and report how it ended."""
    reporter = _Reporter(command)
    process.command_line = shlex.join(["cifar-trainer", *job.command_line])
    options = {"reporter": reporter, "should_stop": reporter.should_stop, "verbose": job.verbose}
    try:
        result = _train(job, Run(Path(job.run_dir)), options)
        value = float(result.validation["accuracy"])
        if job.evaluate:
            value = _test_accuracy(Path(result.run_dir), job.verbose)
        command.send("done", value=value)
    except errors.TrainingStopped:
        command.send("stopped")
    except (errors.DataError, errors.DeviceError) as error:
        # The next trial would fail, too.
        command.send("fatal", error=type(error).__name__, text=str(error))
    except errors.CifarTrainerError as error:
        command.send("failed", text=str(error))
    except Exception as error:
        command.send("failed", text=f"{type(error).__name__}: {error}")
        raise


def _train(job: Job, run: Run, options: dict[str, Any]) -> TrainResult:
    if not run.config.is_file():
        result: TrainResult = api.train(run_dir=run.path, **job.settings, **options)
        return result
    current = {name: job.settings[name] for name in _OF_THIS_MACHINE if name in job.settings}
    try:
        return api.resume(run, **current, **options)
    except errors.CheckpointError as error:
        options["reporter"].warn(f"{error} The trial starts over in another folder next to it.")
        return _train(job, Run(run.path.with_name(f"{run.path.name}-again")), options)


def _test_accuracy(run_dir: Path, verbose: bool) -> float:
    """Test accuracy, from an existing report if possible, to avoid a second look at the test set."""
    from cifar_trainer.comparison import read_evaluated
    from cifar_trainer.data.splits import evaluated_split
    from cifar_trainer.evaluation.evaluate import evaluate

    run = open_run(run_dir)
    images = evaluated_split(run.load_data(None), run.read_config(), "test")
    evaluated = read_evaluated(run, "test", images)
    return evaluate(run.path, verbose=verbose).accuracy if evaluated is None else evaluated.accuracy


def _exit_after_command() -> None:
    """End this process `SECONDS_TO_SAVE` after the command, even during compilation or a long step."""
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()  # Blocks until the command closes its end of the pipe.
    time.sleep(SECONDS_TO_SAVE)
    os._exit(1)


def main() -> None:
    """Train jobs until standard input ends."""
    # Terminals and schedulers signal all processes; the command stops its workers itself.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    command = Command(0, os.dup(1))
    # Keep other output out of the stream of messages.
    os.dup2(2, 1)
    threading.Thread(target=_exit_after_command, daemon=True).start()
    while (message := command.receive()) is not None:
        if "job" in message:
            train_job(Job(**message["job"]), command)
            import keras

            # Free the model's graph; otherwise a long sweep runs out of memory.
            keras.backend.clear_session()


if __name__ == "__main__":
    main()
