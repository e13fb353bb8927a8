"""A signal during the download that `train` begins by itself ends it; the part stays for the next time."""

import signal
import time
from pathlib import Path

import pytest
from bad_server import serve
from command_line import start_command


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_download_of_train_at_once(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with serve(bytes(100_000)) as server:
        env = {"CIFAR_TRAINER_MIRRORS": f"{server.url}/hang"}
        process = start_command(["train", "--data-dir", tmp_path / "data"], cwd=tmp_path, env=env)
        part = tmp_path / "data" / "downloads" / "cifar-10-python.tar.gz.part"
        deadline = time.monotonic() + 120
        while not (part.exists() and server.seen) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        # The server would hang for longer.
        out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (code, ""), err
    assert "Traceback" not in err
    assert part.exists()
    assert not (tmp_path / "runs").exists()
