"""A sweep's worker: a process that trains one trial after the other, as its `sweep` command tells it.

    python -m cifar_trainer.sweeps.worker      (started by `crew`)

Both speak in lines of JSON, through standard input and output. The command sends `job`, `go_on` as the answer
to each `epoch`, and `stop`. The worker sends `begun`, `epoch`, `note`, `warn`, and one of `done`, `stopped`,
`failed` and `fatal` to end a job. Where the command is gone, standard input ends: the worker saves and ends.
"""

import dataclasses
import json
import logging
import os
import queue
import shlex
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from cifar_trainer import errors, process
from cifar_trainer.devices import Device
from cifar_trainer.run import Run, TrainResult, open_run
from cifar_trainer.settings import Settings
from cifar_trainer.training import session
from cifar_trainer.training.control import TrainingReporter

#: Seconds in which a worker whose command is gone must have saved.
LAST_SECONDS = 30.0
#: What a resumed run does not know by itself, or has otherwise on this machine.
_CHOSEN_ANEW = ("data_dir", "device", "checkpoint_every", "end_after")


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to train.

    Attributes:
        settings: the arguments of `train`, without the folder.
        run_dir: the run's folder. Where it holds a run, that goes on.
        command_line: what the run's environment.json says it was started by.
        evaluate: measure the model on the test set when it is trained; its accuracy there is the value.
        verbose: show TensorFlow's own messages.
    """

    settings: dict[str, Any]
    run_dir: str
    command_line: tuple[str, ...] = ()
    evaluate: bool = False
    verbose: bool = False


class Channel:
    """The worker's end of the two streams."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        # Whatever else writes to standard output must not be taken for a message.
        os.dup2(2, 1)
        self.jobs: queue.Queue[Job | None] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()
        self.stopping = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, kind: str, **content: Any) -> None:
        """Send a message; where nobody reads it, the end of standard input tells of that too."""
        try:
            print(json.dumps({"kind": kind, **content}), file=self._out, flush=True)
        except OSError:
            self.stopping.set()

    def may_go_on(self) -> bool:
        """The command's answer to the epoch that was sent."""
        return self._answers.get()

    def _read(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "job" in message:
                self.jobs.put(msgspec.convert(message["job"], Job))
            elif "go_on" in message:
                self._answers.put(message["go_on"])
            else:
                self._stop()
        self._stop()
        self.jobs.put(None)
        # The main thread may be in the middle of a compilation, or of an epoch that takes long.
        timer = threading.Timer(LAST_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()

    def _stop(self) -> None:
        self.stopping.set()
        self._answers.put(False)


class _Reporter(TrainingReporter):
    """Passes on what happens, and asks after each epoch whether to go on."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.ended_early = False

    def note(self, text: str) -> None:
        self._channel.send("note", text=text)

    def warn(self, text: str) -> None:
        self._channel.send("warn", text=text)

    def begun(self, run: Run, config: Settings, title: str, device: Device) -> None:
        self._channel.send("begun", run_dir=str(run.path), device=device.description)

    def epoch_ended(self, row: Mapping[str, Any], epochs: int) -> None:
        self._channel.send("epoch", epoch=row["epoch"], accuracy=row["val_accuracy"])
        self.ended_early = not self._channel.may_go_on()


def train_job(job: Job, channel: Channel) -> None:
    """Train one run, or go on with it, and send how it ended."""
    reporter = _Reporter(channel)
    process.command_line = shlex.join(["cifar-trainer", *job.command_line])
    carried_out: dict[str, Any] = {
        "reporter": reporter,
        "should_stop": lambda: reporter.ended_early or channel.stopping.is_set(),
        "verbose": job.verbose,
    }
    try:
        result = _train(job, Run(Path(job.run_dir)), carried_out)
        value = float(result.validation["accuracy"])
        if job.evaluate:
            value = _test_accuracy(Path(result.run_dir), job.verbose)
        channel.send("done", value=value)
    except errors.TrainingStopped:
        channel.send("stopped")
    except (errors.DataError, errors.DeviceError) as error:
        # Of no trial in particular: the next one would fail likewise.
        channel.send("fatal", error=type(error).__name__, text=str(error))
    except errors.CifarTrainerError as error:
        channel.send("failed", text=str(error))
    except Exception as error:
        channel.send("failed", text=f"{type(error).__name__}: {error}")
        raise


def _train(job: Job, run: Run, carried_out: dict[str, Any]) -> TrainResult:
    if not run.config.is_file():
        return session.train(run_dir=run.path, **job.settings, **carried_out)
    chosen = {name: job.settings[name] for name in _CHOSEN_ANEW if name in job.settings}
    try:
        return session.resume(run, **chosen, **carried_out)
    except errors.CheckpointError as error:
        carried_out["reporter"].warn(f"{error} It is trained again from its first step, beside it.")
        return _train(job, Run(run.path.with_name(f"{run.path.name}-again")), carried_out)


def _test_accuracy(run_dir: Path, verbose: bool) -> float:
    """The accuracy on the test set; where a report tells it already, there is no second look."""
    from cifar_trainer.comparison import read_evaluated
    from cifar_trainer.data.splits import evaluated_split
    from cifar_trainer.evaluation.evaluate import evaluate

    run = open_run(run_dir)
    images = evaluated_split(run.load_data(None), run.read_config(), "test")
    found = read_evaluated(run, "test", images)
    return found.accuracy if found is not None else evaluate(run.path, verbose=verbose).accuracy


def main() -> None:
    """Train what is asked for until standard input ends."""
    # A terminal sends Ctrl-C to all its processes; it is for the command to stop its workers.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A worker traces each trial's loop, which TensorFlow takes for one loop that is traced too often.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    channel = Channel()
    while (job := channel.jobs.get()) is not None:
        train_job(job, channel)
        import keras

        # Else each model's graph stays, and a long sweep runs out of memory.
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
