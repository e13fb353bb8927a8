"""Workers and commands that die or are stopped: no trial is lost; runs resume from their checkpoints."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from command_line import run_command, start_command
from holding import holding, is_held

#: Seconds for a slow machine.
PATIENCE = 120.0


def command_of(recipe: Path, data_dir: Path, folder: Path, *options: object) -> list[object]:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 64, "--device", "cpu"]
    space = ["--set", "learning_rate=1e-3..1e-2:log", "--pruner", "none", "--confirm", 0, "--epochs", 3]
    return [
        "sweep",
        "--name",
        "x",
        "--recipe",
        recipe,
        "--run-dir",
        folder,
        *space,
        *data,
        "--json",
        *options,
    ]


def wait_for(what: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def workers_of(mark: str) -> list[int]:
    """The processes of the workers whose command was started with `mark` in its environment."""
    workers = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"cifar_trainer.sweeps.worker" in words and f"MARK={mark}".encode() in (
                folder / "environ"
            ).read_bytes().split(b"\0"):
                workers.append(int(folder.name))
        except OSError:
            # It has ended.
            continue
    return workers


def earlier(run: Path) -> int:
    """How often a run was resumed."""
    return len(json.loads((run / "environment.json").read_text()).get("earlier", []))


def test_a_killed_workers_trial_is_resumed_from_its_checkpoint(small_data: Path, tmp_path: Path) -> None:
    folder, (recipe, go) = tmp_path / "s", holding(tmp_path)
    words = command_of(recipe, small_data, folder, "--trials", 1)
    command = start_command(words, env={"MARK": str(tmp_path)})
    wait_for(lambda: is_held(folder / "trial-0"), command)
    [worker] = workers_of(str(tmp_path))
    os.kill(worker, signal.SIGKILL)
    go.touch()
    out, err = command.communicate(timeout=PATIENCE)
    [trial] = json.loads(out)["trials"]
    assert err.count("its worker died by signal 9") == 1
    assert (trial["state"], trial["attempts"], trial["run_dir"]) == (
        "complete", [0, 1], str(folder / "trial-0"),
    )  # fmt: skip
    assert earlier(folder / "trial-0") == 1


def test_two_workers_that_were_stopped_are_resumed(small_data: Path, tmp_path: Path) -> None:
    folder, (recipe, go) = tmp_path / "s", holding(tmp_path)
    runs = [folder / "trial-0", folder / "trial-1"]
    words = command_of(recipe, small_data, folder, "--trials", 2, "--workers", 2)
    command = start_command(words, env={"MARK": str(tmp_path)})
    wait_for(lambda: all(map(is_held, runs)), command)
    # A scheduler signals all processes of a job.
    for process in (*workers_of(str(tmp_path)), command.pid):
        os.kill(process, signal.SIGTERM)
    out, err = command.communicate(timeout=PATIENCE)
    assert (command.returncode, out, "Repeat the command to resume" in err) == (143, "", True), err
    go.touch()
    done = run_command(words)
    assert [trial["state"] for trial in json.loads(done.stdout)["trials"]] == ["complete", "complete"]
    assert [earlier(run) for run in runs] == [1, 1]


def test_a_sweep_whose_command_was_killed_is_resumed(small_data: Path, tmp_path: Path) -> None:
    folder, (recipe, go) = tmp_path / "s", holding(tmp_path)
    words = command_of(recipe, small_data, folder, "--trials", 1)
    command = start_command(words)
    wait_for(lambda: is_held(folder / "trial-0"), command)
    command.kill()
    command.communicate(timeout=PATIENCE)
    go.touch()
    done = run_command(words)
    [trial] = json.loads(done.stdout)["trials"]
    assert (trial["state"], trial["attempts"]) == ("complete", [0, 1])
