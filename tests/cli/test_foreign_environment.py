"""Variables of other projects, and unsupported systems. Real processes: imports are what it is about."""

import json
from pathlib import Path

from command_line import run_python

#: As a shell has them that was started from Jupyter or Colab, or beside a project on another backend.
FOREIGN = {
    "KERAS_BACKEND": "torch",
    "TF_USE_LEGACY_KERAS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}

IN_TURN = """
import sys
from cifar_trainer.cli import main
small = ["train", "--limit", "64", "--epochs", "1", "--dataset", "synthetic", "--data-dir", sys.argv[1]]
measured = ["benchmark", "--train", "--seconds", "0.1", "--device", "cpu"]
for arguments in ([*small, "--run-dir", sys.argv[2]], measured, ["env", "--json"]):
    main(["-q", *arguments], prog_name="cifar-trainer", standalone_mode=False)
"""


def test_training_measuring_it_and_env_work_in_silence_whatever_backends_other_projects_use(
    small_data: Path, tmp_path: Path
) -> None:
    done = run_python(["-c", IN_TURN, small_data, tmp_path / "run"], env=FOREIGN)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["devices"][0]["error"] is None


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
