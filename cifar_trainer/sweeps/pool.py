"""The worker processes of a `sweep` command, replaced if they die."""

import contextlib
import dataclasses
import json
import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer import errors
from cifar_trainer.process import module_command
from cifar_trainer.sweeps.result import SweepReporter, Trial
from cifar_trainer.sweeps.trials import Trials
from cifar_trainer.sweeps.worker import Job

#: Seconds between checks for signals, and for the trials of other commands.
LOOK_SECONDS, OTHERS_SECONDS = 0.2, 2.0


class WorkerPool:
    """Trains the trials of a study in worker processes.

    Args:
        size: number of workers.
        environments: environment variables of each worker, such as its GPU.
        reporter: receives events.
        should_stop: polled; return True to save and stop.
    """

    def __init__(
        self,
        size: int,
        environments: Sequence[Mapping[str, str]],
        reporter: SweepReporter,
        should_stop: Callable[[], bool],
    ) -> None:
        self._size, self._environments = size, environments
        self._reporter, self._should_stop = reporter, should_stop
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}
        self._warned: set[str] = set()
        self._error: errors.CifarTrainerError | None = None

    def close(self) -> None:
        """End the workers; a busy one saves first."""
        self._selector.close()
        for worker in self._workers.values():
            worker.hang_up()
        for worker in self._workers.values():
            worker.process.wait()
        self._workers.clear()

    def run(
        self, trials: Trials, make_job: Callable[[Trial], Job], ended: Callable[[Trial, str], None]
    ) -> bool:
        """Train trials until all are done, including those of other commands.

        Args:
            trials: the trials of a study.
            make_job: returns the run to train for a trial.
            ended: called with each trial that has ended, and its state.

        Returns:
            Whether all are done; False if `should_stop` returned True.

        Raises:
            DataError, DeviceError: raised by a worker. Its trial waits for the next command.
            RunError: the database can no longer be used.
        """
        look_at, stopping = 0.0, False
        with trials.heartbeats():
            while True:
                busy = [worker for worker in self._workers.values() if worker.trial is not None]
                if not stopping and (self._error is not None or self._should_stop()):
                    stopping = True
                    for worker in busy:
                        worker.send({"continue": False})
                if stopping and not busy:
                    if self._error is not None:
                        raise self._error
                    return False
                if not stopping and len(busy) < self._size and time.monotonic() >= look_at:
                    look_at = time.monotonic() + OTHERS_SECONDS
                    claimed = self._claim(trials, make_job, self._size - len(busy))
                    # Other commands may run the last trials; if such a command dies, its trials come here.
                    if not claimed and not busy and trials.unfinished() == 0:
                        return True
                for worker, message in self._messages():
                    trial = worker.trial
                    if trial is None:
                        continue
                    state = self._handle(worker, trial, message, trials, stopping)
                    if state is not None:
                        worker.trial, look_at = None, 0.0
                        ended(trial, state)

    def _claim(self, trials: Trials, make_job: Callable[[Trial], Job], most: int) -> int:
        """Assign trials to idle workers; returns the number assigned."""
        for assigned in range(most):
            trial = trials.claim()
            if trial is None:
                return assigned
            idle = (worker for worker in self._workers.values() if worker.trial is None)
            worker = next(idle, None) or self._start()
            worker.trial = trial
            worker.send({"job": dataclasses.asdict(make_job(trial))})
        return most

    def _start(self) -> "_Worker":
        number = next(number for number in range(self._size) if number not in self._workers)
        process = subprocess.Popen(
            module_command("cifar_trainer.sweeps.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environments[number % len(self._environments)]},
            # Only this process handles Ctrl-C and hang-ups; it stops the workers.
            start_new_session=True,
        )
        worker = self._workers[number] = _Worker(process, number)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        return worker

    def _messages(self) -> Iterator[tuple["_Worker", dict[str, Any]]]:
        """Messages from the workers, and `died` for one that has ended."""
        for key, _ in self._selector.select(LOOK_SECONDS):
            worker: _Worker = key.data
            received = os.read(worker.output, 1 << 16)
            if not received:
                self._selector.unregister(worker.output)
                del self._workers[worker.number]
                worker.hang_up()
                yield worker, {"kind": "died", "code": worker.process.wait()}
                continue
            *lines, worker.received = (worker.received + received).split(b"\n")
            for line in lines:
                yield worker, json.loads(line)

    def _handle(
        self, worker: "_Worker", trial: Trial, message: Mapping[str, Any], trials: Trials, stopping: bool
    ) -> str | None:
        """Act on a message; returns the trial's state if it has ended."""
        state: str | None = None
        value: float | None = None
        reason: str | None = None
        match message["kind"]:
            case "note":
                self._reporter.note(f"{trial.label}: {message['text']}")
            case "warn":
                self._warn_once(f"{trial.label}: ", message["text"])
            case "started":
                trials.started(trial, Path(message["run_dir"]))
                self._reporter.trial_started(trial)
            case "epoch":
                proceed = trials.report(trial, message["epoch"], message["accuracy"])
                worker.send({"continue": proceed and not stopping})
                self._reporter.epoch_ended(trial, message["epoch"], message["accuracy"])
            case "done":
                state, value = "complete", message["value"]
                trials.end(trial, state, value)
            case "failed":
                state, reason = "failed", message["text"]
                trials.end(trial, state, message=reason)
            case "stopped" if not stopping:
                state = "pruned" if trials.end(trial, "pruned") else "stopped"
            case "stopped":
                state = "stopped"
                trials.release(trial)
            case "fatal":
                state = "stopped"
                trials.release(trial)
                self._error = getattr(errors, message["error"])(message["text"])
            case "died":
                code = message["code"]
                how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
                # A worker that was killed together with its command does not count as dead.
                if trials.release(trial, death=None if stopping else how):
                    state = "stopped"
                    self._reporter.warn(f"{trial.label}: its worker died {how}; another one will resume it.")
                else:
                    state, reason = "failed", f"Its worker died too often, the last time {how}."
        if state is not None:
            self._reporter.trial_ended(trial, state, value, reason)
        return state

    def _warn_once(self, label: str, text: str) -> None:
        """Warn, unless another trial has given the same warning, such as of a slow processor."""
        words = re.sub(r"\d[\d.,e+-]*", "#", text)
        if words not in self._warned:
            self._warned.add(words)
            self._reporter.warn(f"{label}{text}")


@dataclasses.dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    number: int
    trial: Trial | None = None
    received: bytes = b""

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message. Ignores a dead worker, whose death `_messages` reports."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def hang_up(self) -> None:
        """Close the connection, which ends the worker."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
