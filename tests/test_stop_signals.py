"""Signals: once to save and stop, twice to stop at once."""

import os
import pty
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import INTERPRETER, default_signals, environment

from cifar_trainer.cli.signals import SIGNALS, StopRequest, stop_on_signals
from cifar_trainer.training import checkpoint as checkpoints
from cifar_trainer.training.checkpoint import Checkpoint

#: Says that it is ready, then works on until it is asked to stop, and never ends by itself after that.
STUBBORN = """
import sys, time
from cifar_trainer.cli.signals import StopRequest, stop_on_signals
stop = StopRequest()
with stop_on_signals(stop):
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
print("ended by itself", flush=True)
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_the_first_signal_asks_and_the_second_ends_at_once(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [INTERPRETER, "-c", STUBBORN], stdout=subprocess.PIPE, text=True, preexec_fn=default_signals,
        env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    assert process.poll() is None
    process.send_signal(number)
    out, _ = process.communicate(timeout=50)
    assert process.returncode == 128 + number
    assert out == ""


def test_the_second_signal_gives_the_terminal_its_cursor_back() -> None:
    """A live bar hides it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [INTERPRETER, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=theirs, preexec_fn=default_signals,
        env=environment(),
    ) as process:  # fmt: skip
        os.close(theirs)
        assert process.stdout is not None
        for said in (b"ready\n", b"asked\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert os.read(ours, 100) == b"\x1b[?25h"
    os.close(ours)


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    """nohup sets SIGHUP to be ignored; training then outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop_on_signals(stop):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_during_a_save_waits_for_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Checkpoint(
        epoch=1, step=0, global_step=7, variables=[np.arange(5.0)], optimizer=[], history=[], clock={},
        losses=np.zeros(0, np.float32), correct=np.zeros(0, np.int32), identity={},
    )  # fmt: skip
    flush = os.fsync

    def interrupted(descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        flush(descriptor)

    stop = StopRequest()
    with stop_on_signals(stop):
        # A second signal would end this process, so only the first flush sends one.
        monkeypatch.setattr(
            os, "fsync", lambda fd: (monkeypatch.setattr(os, "fsync", flush), interrupted(fd))
        )
        path = checkpoints.save(tmp_path, state)
        assert stop.received == signal.SIGTERM
    np.testing.assert_array_equal(checkpoints.load(path).variables[0], np.arange(5.0))
