"""`reproduce`: a run trained again from its own record."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def test_a_run_that_is_reproduced_has_the_same_weights(
    run_cli: RunCli, trained_run: Path, tmp_path: Path
) -> None:
    done = run_cli(["reproduce", trained_run, "--run-dir", tmp_path / "again", "--json"])
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    expected = json.loads((trained_run / "result.json").read_text())["weights_sha256"]
    assert list(printed) == [
        "run_dir", "reproduced_in", "same", "weights_sha256", "expected_sha256", "differences",
    ]  # fmt: skip
    assert printed["weights_sha256"] == printed["expected_sha256"] == expected


def test_a_run_that_is_not_reproduced_exits_with_4_and_names_what_differs(
    run_cli: RunCli, trained_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**result, "weights_sha256": "0" * 64}))
    environment = json.loads((run / "environment.json").read_text())
    environment["versions"]["tensorflow"] = "2.20.0"
    (run / "environment.json").write_text(json.dumps(environment))
    done = run_cli(["reproduce", run, "--run-dir", tmp_path / "again"])
    assert done.returncode == 4
    assert "TensorFlow was 2.20.0" in done.stdout
    assert "Traceback" not in done.stderr
