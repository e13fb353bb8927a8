"""A real Slurm of one node, started for tests."""

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=500 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
"""


@contextlib.contextmanager
def running_slurm() -> Iterator[dict[str, str]]:
    """The variables that make `sbatch` use a Slurm of its own; skips where it is not installed."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as other accounts, and needs root")
    # Munge takes no folder that others may write, nor one below such a folder unless it is sticky.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    host = platform.node().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(_CONFIG.format(host=host, folder=folder, ports=ports))
    variables = {"SLURM_CONF": str(config)}
    files = [f"--{name}={folder}/munge/{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file")]
    files += [f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed"]
    try:
        for command in (["munged", *files, "--force"], ["slurmctld"], ["slurmd"]):
            subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True)
        _wait_for_the_node(variables, folder)
        yield variables
    finally:
        for file in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            with contextlib.suppress(OSError, ValueError):
                _end(int((folder / file).read_text()))
        shutil.rmtree(folder, ignore_errors=True)


def _end(pid: int) -> None:
    """Stop a daemon and wait: it writes its state as it ends, and would create its folder anew.

    Raises:
        ProcessLookupError: it has ended, or had already.
    """
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        os.kill(pid, 0)
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


def _wait_for_the_node(variables: dict[str, str], folder: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done = subprocess.run(
            ["sinfo", "-h", "-o", "%T"], env={**os.environ, **variables}, capture_output=True, text=True
        )
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    pytest.fail(f"Slurm does not start:\n{(folder / 'slurmctld.log').read_text()[-3000:]}")
