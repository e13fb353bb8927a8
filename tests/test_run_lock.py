"""A run's folder belongs to one process at a time."""

import threading
import time
from pathlib import Path

import pytest
from command_line import RunCli, start_command

from cifar_trainer.errors import RunError
from cifar_trainer.run import Run, new_run


def small(data_dir: Path, run: Path, *more: object) -> list[object]:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 320, "--batch-size", 4]
    return ["train", *data, "--run-dir", run, *more]


def test_a_second_and_a_third_train_are_refused_and_the_first_loses_nothing(
    run_cli: RunCli, small_data: Path, tmp_path: Path
) -> None:
    """The first holds the folder and has not yet written its settings: as while TensorFlow starts."""
    run = tmp_path / "run"
    with new_run(run, "tutorial") as first:
        first.environment.write_text("{}")
        codes = [run_cli(small(small_data, run, "--epochs", 1)).returncode for _ in range(2)]
        left = {path.name for path in run.iterdir()}
        first.config.write_text("{}")
    assert codes == [1, 1]
    assert left == {".lock", "environment.json"}


def test_of_three_processes_started_together_in_one_folder_one_trains(
    run_cli: RunCli, small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    processes = [start_command(small(small_data, run, "--epochs", 1, "--seed", seed)) for seed in range(3)]
    said = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 1, 1], said
    assert Run(run).read_config().seed == codes.index(0)


def test_the_lock_stays_the_same_file_when_a_run_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with new_run(run, "tutorial"):
        before = (run / ".lock").stat().st_ino
        with pytest.raises(RunError, match="in use"), new_run(run, "tutorial"):
            pass
        assert (run / ".lock").stat().st_ino == before


def test_a_run_that_fails_before_its_settings_are_written_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_run(tmp_path / "run", "tutorial"):
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


def test_a_held_run_is_seen_as_held(tmp_path: Path) -> None:
    with Run(tmp_path).hold():
        assert Run(tmp_path).is_held()
    assert not Run(tmp_path).is_held()


def test_looking_whether_a_run_is_held_refuses_no_hold(tmp_path: Path) -> None:
    run, done = Run(tmp_path), threading.Event()
    with run.hold():
        pass

    def look() -> None:
        while not done.is_set():
            run.is_held()

    looks = [threading.Thread(target=look) for _ in range(2)]
    for thread in looks:
        thread.start()
    refused = 0
    try:
        for _ in range(300):
            try:
                with run.hold():
                    pass
            except RunError:
                refused += 1
            time.sleep(0)
    finally:
        done.set()
        for thread in looks:
            thread.join()
    assert refused == 0
