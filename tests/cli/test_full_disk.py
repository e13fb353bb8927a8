"""A disk that is full when a command comes to write: one message, and what was there stays."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RunCli, run_here
from matplotlib.figure import Figure

from cifar_trainer import pages
from cifar_trainer.cli.base import save_plot
from cifar_trainer.errors import RunError


def fill(folder: Path) -> None:
    """Take what is left of a small disk."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            return


def test_evaluate_on_a_full_disk_keeps_the_report_that_was_there(
    mount: Callable[[str], Path], trained_run: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pages.PageFigure(bytes(4096), b"")
    monkeypatch.setattr(pages, "draw_figures", lambda drawings, progress: dict.fromkeys(drawings, figure))
    run = mount("size=32m") / "run"
    shutil.copytree(trained_run, run)
    (run / "evaluation" / "test").mkdir(parents=True)
    (run / "evaluation" / "test" / "report.json").write_text("{}")
    fill(run.parent)
    done = run_here(["evaluate", run, "--data-dir", data_dir, "--json"])
    assert (done.exit_code, done.stdout) == (1, ""), done.stderr
    assert f"{run}/evaluation/test cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (run / "evaluation").iterdir()] == ["test"]
    assert (run / "evaluation" / "test" / "report.json").read_text() == "{}"


def test_train_on_a_full_disk_begins_nothing(
    run_cli: RunCli, mount: Callable[[str], Path], small_data: Path
) -> None:
    disk = mount("size=1m")
    fill(disk)
    data = ["--dataset", "synthetic", "--data-dir", small_data, "--limit", 320]
    done = run_cli(["train", *data, "--run-dir", disk / "run"])
    assert done.returncode == 1, done.stderr
    assert f"{disk / 'run'}" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (disk / "run").exists()


def test_a_plot_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/plot\.png cannot be written: .*Choose another --plot\."):
        save_plot(tmp_path / "file" / "plot.png", Figure())
