"""Variables of other projects, and unsupported systems. Real processes: imports are what it is about."""

from pathlib import Path

from command_line import RunCli, run_python

#: As a shell has them that was started from Jupyter or Colab, or beside a project on another backend.
FOREIGN = {
    "KERAS_BACKEND": "torch",
    "TF_USE_LEGACY_KERAS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


def test_a_run_is_trained_and_plotted_whatever_backends_other_projects_use(
    run_cli: RunCli, data_dir: Path, tmp_path: Path
) -> None:
    data = ["--dataset", "synthetic", "--data-dir", data_dir, "--limit", 320]
    done = run_cli(["train", *data, "--epochs", 1, "--run-dir", tmp_path / "run"], env=FOREIGN)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_training_is_measured_in_silence_whatever_backend_other_projects_use(run_cli: RunCli) -> None:
    arguments = ["-q", "benchmark", "--train", "--seconds", "0.1", "--device", "cpu", "--json"]
    done = run_cli(arguments, env=FOREIGN)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_option_of_benchmark_is_told_without_tensorflow() -> None:
    program = (
        "import sys\n"
        "from cifar_trainer.cli import main\n"
        "try:\n"
        "    main(['benchmark', '--train', '--batch-size', '60000'])\n"
        "except SystemExit as end:\n"
        "    print(end.code, sorted({'tensorflow', 'keras'} & set(sys.modules)))\n"
    )
    done = run_python(["-c", program], own_process=True)
    assert done.stdout == "2 []\n"


def test_on_windows_the_answer_is_no_traceback() -> None:
    """What its Python lacks is taken away here: signals, file modes, locks."""
    program = (
        "import os, signal, sys, click, rich.console\n"
        "del signal.SIGHUP, os.fchmod, os.fork, os.getuid\n"
        "sys.platform = 'win32'\n"
        "sys.modules['fcntl'] = None\n"
        "from cifar_trainer.cli import main\n"
        "main(['--version'], prog_name='cifar-trainer')\n"
    )
    done = run_python(["-c", program], own_process=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "WSL 2" in done.stderr
