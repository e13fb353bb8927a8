"""The processes that train one model together, as TF_CONFIG or a Slurm step names them.

Imports no TensorFlow.
"""

import dataclasses
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from cifar_trainer.errors import UsageError

#: The first port of a Slurm step is above this one; which one follows from the job's number.
_FIRST_PORT, _PORTS = 20_000, 20_000
_EXPECTED = (
    'Expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}, '
    "see docs/clusters.md."
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Several processes, and which of them this one is.

    Attributes:
        addresses: HOST:PORT of each process, at least two.
        rank: the place of this process among them; 0 is the chief, which writes the run's folder.
    """

    addresses: tuple[str, ...]
    rank: int

    @property
    def count(self) -> int:
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        return self.rank == 0

    @property
    def local_rank(self) -> int:
        """The place of this process among those of its host."""
        hosts = [_split(address)[0] for address in self.addresses]
        return hosts[: self.rank].count(hosts[self.rank])


def find_cluster(variables: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that this process belongs to; None where it trains alone.

    Args:
        variables: of the environment: TF_CONFIG, or else those that `srun` sets.

    Raises:
        UsageError: they name no cluster that can train together.
    """
    given = variables.get("TF_CONFIG", "").strip()
    if given:
        return _from_tf_config(given)
    if int(variables.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return _from_slurm(variables)
    return None


def check_alone(what: str) -> None:
    """Raise UsageError where this process belongs to a cluster, which `what` does not go with."""
    cluster = find_cluster()
    if cluster is not None:
        raise UsageError(
            f"{what} does not go with the {cluster.count} processes that TF_CONFIG or srun names: they train "
            "one run. Use a job array, see docs/clusters.md, or unset the variable."
        )


def _from_tf_config(given: str) -> Cluster | None:
    try:
        parsed = json.loads(given)
        jobs, task = parsed.get("cluster", {}), parsed.get("task", {})
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
        addresses = {job: [str(address) for address in jobs[job]] for job in jobs}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG cannot be read: {error}. {_EXPECTED}") from error
    others = sorted(set(addresses) - {"chief", "worker"})
    if others:
        raise UsageError(f"TF_CONFIG names tasks of the type {others[0]!r}, which take no part. {_EXPECTED}")
    if kind not in addresses or not 0 <= index < len(addresses[kind]):
        raise UsageError(f"TF_CONFIG says that this is {kind} {index}, which its cluster lacks. {_EXPECTED}")
    chief = addresses.get("chief", [])
    everybody = (*chief, *addresses.get("worker", []))
    for address in everybody:
        _split(address)
    if len(set(everybody)) < len(everybody):
        raise UsageError(f"TF_CONFIG names an address twice: {', '.join(everybody)}. {_EXPECTED}")
    rank = index + (len(chief) if kind == "worker" else 0)
    return Cluster(everybody, rank) if len(everybody) > 1 else None


def _split(address: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        UsageError: it is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"TF_CONFIG names the address {address!r}, expected HOST:PORT.")
    return host, int(port)


def _from_slurm(variables: Mapping[str, str]) -> Cluster:
    count, rank = int(variables["SLURM_STEP_NUM_TASKS"]), int(variables["SLURM_PROCID"])
    nodes, tasks = variables.get("SLURM_STEP_NODELIST", ""), variables.get("SLURM_STEP_TASKS_PER_NODE", "")
    try:
        # Slurm's own tool reads lists such as `node[1-3,7]`.
        done = subprocess.run(
            ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"The nodes of this Slurm step ({nodes}) cannot be listed: {error}.") from error
    hosts = [
        host
        for host, tasks in zip(done.stdout.split(), tasks_per_node(tasks), strict=True)
        for _ in range(tasks)
    ]
    here = variables.get("SLURMD_NODENAME", hosts[rank])
    if len(hosts) != count or hosts[rank] != here:
        raise UsageError(
            f"This Slurm step gives task {rank} to {here}, expected {hosts[rank]}: the tasks of a node must "
            "follow each other. Use srun --distribution=block."
        )
    base = _FIRST_PORT + int(variables.get("SLURM_JOB_ID", 0)) * 64 % _PORTS
    return Cluster(tuple(f"{host}:{base + i}" for i, host in enumerate(hosts)), rank)


def tasks_per_node(text: str) -> list[int]:
    """Read Slurm's `2(x3),1`: 2 tasks on each of three nodes, and 1 on the last."""
    counts = []
    for part in text.split(","):
        number, _, times = part.partition("(x")
        counts += [int(number)] * int(times.rstrip(")") or 1)
    return counts


def tf_config(addresses: tuple[str, ...], rank: int) -> str:
    """The value of TF_CONFIG for one of these processes."""
    task: dict[str, Any] = {"type": "worker", "index": rank}
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": task})
