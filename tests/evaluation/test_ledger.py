"""The ledger of a run: each look at the test set, and no other, is recorded."""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_trainer.errors import RunError
from cifar_trainer.evaluation.subject import load_subject
from cifar_trainer.run import Run

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def looks(run: Path) -> list[tuple[str, int]]:
    return [(look.command, look.epoch) for look in Run(run).read_looks()]


def test_training_that_validates_on_the_test_set_looks_at_it_after_each_epoch(trained_run: Path) -> None:
    assert looks(trained_run) == [("train", 1), ("train", 2)]


def test_the_result_of_training_counts_the_looks(trained_run: Path) -> None:
    assert json.loads((trained_run / "result.json").read_text())["test_looks"] == 2


def test_a_run_that_held_images_out_has_no_look_until_the_test_set_is_evaluated(
    run_cli: RunCli, small_data: Path, tmp_path: Path
) -> None:
    run, data = tmp_path / "run", ["--data-dir", small_data]
    settings = ["--dataset", "synthetic", "--limit", 192, "--epochs", 2, "--validation", "holdout"]
    trained = run_cli(["train", *settings, *data, "--run-dir", run, "--device", "cpu", "--json"])
    assert (trained.returncode, json.loads(trained.stdout)["test_looks"]) == (0, 0)
    counts = []
    for split in ("validation", "test"):
        load_subject(Run(run), Run(run).load_data(small_data), split)
        counts.append(looks(run))
    assert counts == [[], [("evaluate", 2)]]


def test_processes_that_look_at_once_lose_no_look(tmp_path: Path) -> None:
    def look(command: str) -> None:
        for epoch in range(50):
            Run(tmp_path).record_look(command, epoch)

    threads = [threading.Thread(target=look, args=(name,)) for name in ("train", "evaluate")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(looks(tmp_path)) == sorted((name, i) for name in ("train", "evaluate") for i in range(50))


@pytest.mark.parametrize("line", ["[]", '{"at": 1, "command": "train", "epoch": 1}', "{"])
def test_a_damaged_ledger_is_refused_by_name(trained_run: Path, tmp_path: Path, line: str) -> None:
    shutil.copy(trained_run / "test_looks.jsonl", tmp_path)
    with open(tmp_path / "test_looks.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"test_looks\.jsonl"):
        Run(tmp_path).read_looks()
