"""A `sweep` command's workers: started, given trials, listened to, replaced where they die."""

import contextlib
import dataclasses
import json
import os
import re
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cifar_trainer import errors
from cifar_trainer.errors import RunError
from cifar_trainer.process import module_command
from cifar_trainer.sweeps.trials import DEATHS, Claim, Trials
from cifar_trainer.sweeps.worker import Job

#: Seconds between two looks at signals, and at trials of other commands.
LOOK_SECONDS, OTHERS_SECONDS = 0.2, 2.0
#: So many first trials that all fail end the sweep: something else is wrong than their values.
HOPELESS = 3


class CrewReporter:
    """Told what happens in a sweep; each method does nothing here."""

    def note(self, text: str) -> None:
        """Something in passing."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that does not end the sweep."""

    def trial_begun(self, claim: Claim, device: str) -> None:
        """A worker trains the trial, from its first step or from a checkpoint on."""

    def epoch_ended(self, claim: Claim, epoch: int, accuracy: float) -> None:
        """An epoch of the trial was validated."""

    def trial_ended(self, claim: Claim, state: str, value: float | None, message: str | None) -> None:
        """The trial is `complete`, `pruned`, `failed`, or `stopped` to go on later."""


@dataclasses.dataclass
class _Worker:
    process: "subprocess.Popen[bytes]"
    number: int
    claim: Claim | None = None
    job: Job | None = None
    received: bytes = b""
    deaths: int = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; a worker that is dead is seen at the end of its output."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()


class Crew:
    """Workers that train the trials of a study until none is left.

    Args:
        size: how many.
        environments: the variables of each worker, which differ by the GPU.
        reporter: told what happens.
        should_stop: asked whether to save and stop.
        heartbeat: seconds between signs of life; None gives none.
    """

    def __init__(
        self,
        size: int,
        environments: Sequence[Mapping[str, str]],
        reporter: CrewReporter,
        should_stop: Callable[[], bool],
        heartbeat: float | None,
    ) -> None:
        self._size, self._environments = size, environments
        self._reporter, self._should_stop, self._heartbeat = reporter, should_stop, heartbeat
        self._selector = selectors.DefaultSelector()
        self._workers: dict[int, _Worker] = {}
        self._warned: set[str] = set()

    def close(self) -> None:
        """End the workers; one that is busy saves first."""
        for worker in self._workers.values():
            assert worker.process.stdin is not None
            with contextlib.suppress(OSError):
                worker.process.stdin.close()
        for worker in self._workers.values():
            worker.process.wait()
            assert worker.process.stdout is not None
            worker.process.stdout.close()
        self._workers.clear()
        self._selector.close()

    def run(self, trials: Trials, make_job: Callable[[Claim], Job]) -> bool:
        """Train trials until all are done, here and elsewhere.

        Returns:
            Whether all are done, rather than stopped because somebody asked.

        Raises:
            RunError: the first trials all failed, or the database cannot be used any more.
            DataError, DeviceError: a worker met it. Its trial waits for the next command.
        """
        with self._beating(trials):
            try:
                return self._run(trials, make_job)
            except BaseException:
                # Others, or the same command again, then go on with them at once. Where that fails too, such
                # as without a database, the first error is the one to tell; heartbeats do the rest.
                with contextlib.suppress(Exception):
                    self._release(trials)
                raise

    def _run(self, trials: Trials, make_job: Callable[[Claim], Job]) -> bool:
        failures: list[str] = []
        ended = 0
        looked = 0.0
        while not self._should_stop():
            busy = sum(worker.claim is not None for worker in self._workers.values())
            if busy < self._size and (busy == 0 or time.monotonic() - looked > OTHERS_SECONDS):
                looked = time.monotonic()
                while busy < self._size and (claim := trials.claim()) is not None:
                    self._give(self._idle(), claim, trials, make_job)
                    busy += 1
                if busy == 0:
                    if trials.open() == 0:
                        return True
                    # The last ones are trained elsewhere; where that command dies, they come here.
                    self._wait(OTHERS_SECONDS)
                    continue
            for worker, message in self._messages():
                how = self._hear(worker, message, trials)
                if how is None:
                    continue
                looked = 0.0
                ended += 1
                if how:
                    failures.append(how)
                if len(failures) == ended == HOPELESS:
                    raise RunError(f"The first {HOPELESS} trials all failed: {failures[-1]}")
        self._release(trials)
        return False

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._should_stop():
            time.sleep(LOOK_SECONDS)

    def _idle(self) -> _Worker:
        for worker in self._workers.values():
            if worker.claim is None:
                return worker
        return self._start(len(self._workers))

    def _start(self, number: int) -> _Worker:
        process = subprocess.Popen(
            module_command("cifar_trainer.sweeps.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._environments[number % len(self._environments)]},
            # Ctrl-C and a hang-up are for this process, which asks the workers to stop.
            start_new_session=True,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        worker = _Worker(process, number)
        self._workers[number] = worker
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        return worker

    def _give(self, worker: _Worker, claim: Claim, trials: Trials, make_job: Callable[[Claim], Job]) -> None:
        worker.claim, worker.job, worker.deaths = claim, make_job(claim), 0
        worker.send({"job": dataclasses.asdict(worker.job)})

    def _messages(self) -> Iterator[tuple[_Worker, dict[str, Any]]]:
        """What the workers have sent; `died` where one has ended."""
        for key, _ in self._selector.select(LOOK_SECONDS):
            worker: _Worker = key.data
            read = os.read(key.fd, 1 << 16)
            if not read:
                self._selector.unregister(key.fileobj)
                yield worker, {"kind": "died"}
                continue
            *lines, worker.received = (worker.received + read).split(b"\n")
            for line in lines:
                yield worker, json.loads(line)

    def _hear(self, worker: _Worker, message: Mapping[str, Any], trials: Trials) -> str | None:
        """Act on a message; why a trial has failed, an empty text where it has ended otherwise, else None."""
        claim = worker.claim
        if message["kind"] == "died":
            return self._bury(worker, trials)
        if claim is None:
            return None
        match message["kind"]:
            case "note":
                self._reporter.note(f"{claim.label}: {message['text']}")
            case "warn":
                # Each trial says what holds for all of them, such as that a processor is slow, or what many
                # have in common, such as a rate that is too high.
                words = re.sub(r"\d[\d.,e+-]*", "#", message["text"])
                if words not in self._warned:
                    self._warned.add(words)
                    self._reporter.warn(f"{claim.label}: {message['text']}")
            case "begun":
                trials.begun(claim, Path(message["run_dir"]))
                self._reporter.trial_begun(claim, message["device"])
            case "epoch":
                go_on = trials.report(claim, message["epoch"], message["accuracy"])
                worker.send({"go_on": go_on})
                self._reporter.epoch_ended(claim, message["epoch"], message["accuracy"])
            case "done":
                trials.complete(claim, message["value"])
                return self._end(worker, "complete", message["value"])
            case "stopped":
                trials.prune(claim)
                return self._end(worker, "stopped" if claim.given_away else "pruned")
            case "failed":
                trials.fail(claim, message["text"])
                return self._end(worker, "failed", message=message["text"])
            case "fatal":
                trials.release(claim)
                self._end(worker, "stopped")
                raise getattr(errors, message["error"])(message["text"])
        return None

    def _end(
        self, worker: _Worker, state: str, value: float | None = None, message: str | None = None
    ) -> str:
        assert worker.claim is not None
        self._reporter.trial_ended(worker.claim, state, value, message)
        worker.claim = worker.job = None
        return message or ""

    def _bury(self, worker: _Worker, trials: Trials) -> str | None:
        """Replace a worker that has died, and let the new one go on with its trial."""
        code = worker.process.wait()
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        worker.process.stdout.close()
        with contextlib.suppress(OSError):
            worker.process.stdin.close()
        del self._workers[worker.number]
        claim, job = worker.claim, worker.job
        if claim is None or job is None:
            return None
        deaths = worker.deaths + 1
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        if deaths > DEATHS:
            message = f"Its worker died {deaths} times, the last time with {how}."
            trials.fail(claim, message)
            return self._end(worker, "failed", message=message)
        self._reporter.warn(
            f"{claim.label}: its worker died ({how}); another goes on from the last checkpoint."
        )
        again = self._start(worker.number)
        again.claim, again.job, again.deaths = claim, job, deaths
        again.send({"job": dataclasses.asdict(job)})
        return None

    def _release(self, trials: Trials) -> None:
        """Let the workers save and stop, and their trials wait for the next command."""
        busy = [worker for worker in self._workers.values() if worker.claim is not None]
        for worker in busy:
            worker.send({"stop": True})
        while any(worker.claim is not None for worker in busy):
            for worker, message in self._messages():
                if worker.claim is None:
                    continue
                if message["kind"] == "done":
                    self._hear(worker, message, trials)
                elif message["kind"] in ("stopped", "failed", "fatal", "died"):
                    trials.release(worker.claim)
                    self._end(worker, "stopped")

    @contextlib.contextmanager
    def _beating(self, trials: Trials) -> Iterator[None]:
        """Give signs of life in the background, also while a message is acted on."""
        if self._heartbeat is None:
            yield
            return
        ended, seconds = threading.Event(), self._heartbeat

        def beat() -> None:
            while not ended.wait(seconds):
                # A server that is away for a moment: the next beat, or the next trial, tells.
                with contextlib.suppress(Exception):
                    trials.beat()

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
