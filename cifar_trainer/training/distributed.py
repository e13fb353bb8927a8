"""Data-parallel training with several processes: discovery, collective sums, and `--gpus N`.

TF_CONFIG or a Slurm step lists the processes. Each computes a shard of every batch, and they sum their
gradients with the collective operations of `tf.distribute`. Each has all of the model's variables, which stay
equal because all apply the same summed gradients; so a process is an ordinary run with a shard of the batch.
The chief writes the run's folder, and makes all decisions that depend on a clock.

Importing this does not import TensorFlow.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cifar_trainer.devices.cuda import visible_gpus
from cifar_trainer.errors import DeviceError, RunError, UsageError, counted
from cifar_trainer.process import module_command

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

#: The range of ports for Slurm steps; the job's ID selects the ports.
_FIRST_PORT, _PORTS = 20_000, 20_000
_EXPECTED = (
    'Expected {"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}, '
    "see docs/clusters.md."
)
#: Seconds to wait for the other processes to start.
START_SECONDS = 120.0
#: Separates our collective operations from those of tf.distribute itself.
_GROUP = 9_001


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster of processes, and the rank of this one.

    Attributes:
        addresses: HOST:PORT of each process, at least two.
        rank: index of this process; 0 is the chief, which writes the run's folder.
    """

    addresses: tuple[str, ...]
    rank: int

    @property
    def count(self) -> int:
        """The number of processes."""
        return len(self.addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's folder."""
        return self.rank == 0

    @property
    def local_rank(self) -> int:
        """The index of this process among those on the same host."""
        hosts = [_split(address)[0] for address in self.addresses]
        return hosts[: self.rank].count(hosts[self.rank])


def find_cluster(variables: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster to which this process belongs; None if it trains alone.

    Args:
        variables: environment variables: TF_CONFIG, or else those set by `srun`.

    Raises:
        UsageError: the variables do not describe a cluster that can train together.
    """
    text = variables.get("TF_CONFIG", "").strip()
    if text:
        return _from_tf_config(text)
    if int(variables.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return _from_slurm(variables)
    return None


def check_single_process(what: str) -> None:
    """Raise UsageError if this process belongs to a cluster, which `what` does not support."""
    cluster = find_cluster()
    if cluster is not None:
        raise UsageError(
            f"{what} cannot be combined with the {cluster.count} processes of TF_CONFIG or srun, which train "
            "one run together. Use a job array (see docs/clusters.md), or unset the variable."
        )


def _from_tf_config(text: str) -> Cluster | None:
    try:
        parsed = json.loads(text)
        jobs, task = parsed.get("cluster", {}), parsed.get("task", {})
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
        addresses = {job: [str(address) for address in jobs[job]] for job in jobs}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG cannot be read: {error}. {_EXPECTED}") from error
    others = sorted(set(addresses) - {"chief", "worker"})
    if others:
        raise UsageError(
            f"TF_CONFIG has tasks of the type {others[0]!r}, which is not supported. {_EXPECTED}"
        )
    if kind not in addresses or not 0 <= index < len(addresses[kind]):
        raise UsageError(
            f"TF_CONFIG calls this process {kind} {index}, which is not in its cluster. {_EXPECTED}"
        )
    chief = addresses.get("chief", [])
    everyone = (*chief, *addresses.get("worker", []))
    for address in everyone:
        _split(address)
    if len(set(everyone)) < len(everyone):
        raise UsageError(f"TF_CONFIG lists an address twice: {', '.join(everyone)}. {_EXPECTED}")
    rank = index + (len(chief) if kind == "worker" else 0)
    return Cluster(everyone, rank) if len(everyone) > 1 else None


def _split(address: str) -> tuple[str, int]:
    """Split an address into host and port.

    Raises:
        UsageError: it is not an address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"TF_CONFIG lists the address {address!r}, expected HOST:PORT.")
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
        for host, count_here in zip(done.stdout.split(), tasks_per_node(tasks), strict=True)
        for _ in range(count_here)
    ]
    here = variables.get("SLURMD_NODENAME", hosts[rank])
    if len(hosts) != count or hosts[rank] != here:
        raise UsageError(
            f"This Slurm step runs task {rank} on {here}, expected {hosts[rank]}: the tasks of a node must "
            "have consecutive numbers. Use srun --distribution=block."
        )
    base = _FIRST_PORT + int(variables.get("SLURM_JOB_ID", 0)) * 64 % _PORTS
    return Cluster(tuple(f"{host}:{base + i}" for i, host in enumerate(hosts)), rank)


def tasks_per_node(text: str) -> list[int]:
    """Parse Slurm's `2(x3),1`: two tasks on each of three nodes, and one on the fourth."""
    counts = []
    for part in text.split(","):
        number, _, times = part.partition("(x")
        counts += [int(number)] * int(times.rstrip(")") or 1)
    return counts


def tf_config(addresses: tuple[str, ...], rank: int) -> str:
    """The value of TF_CONFIG for the process with this rank."""
    task: dict[str, Any] = {"type": "worker", "index": rank}
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": task})


class Replicas(Protocol):
    """The processes that train one model, and the operations with which they communicate.

    Attributes:
        count: number of processes.
        is_chief: whether this process writes the run's folder.
    """

    count: int
    is_chief: bool

    def shard(self, batch: int) -> tuple[int, int]:
        """The range of a batch's images that this process computes: first, and one past the last."""

    def all_reduce(self, tensors: "Sequence[tf.Tensor]", *, copies: int = 1) -> "list[tf.Tensor]":
        """Sum each tensor over the processes, in one operation; shapes and dtypes stay the same.

        Args:
            tensors: this process's tensors, float32 or int32.
            copies: number of processes that computed the same values; the sums are divided by it.
        """

    def differentiable_sum(self, values: "tf.Tensor") -> "tf.Tensor":
        """The sum over the processes, with a gradient that flows back to each process."""

    def sum_numbers(self, *numbers: float) -> list[float]:
        """Sum each number over the processes."""

    def broadcast(self, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Call `compute` in the chief only, and give its result, float32 [N, K], to all processes."""

    def broadcast_json(self, content: Any) -> Any:
        """Give the chief's `content` to all processes, as JSON; that of the others is ignored."""

    def broadcast_variables(self, variables: "Sequence[keras.Variable]") -> None:
        """Set the float32 variables of all processes to the chief's values."""

    def starting(self) -> contextlib.AbstractContextManager[None]:
        """If the block fails, notify the processes that wait for the chief's first message."""

    def connected(self) -> contextlib.AbstractContextManager[None]:
        """Report which process was lost if the block fails because of it.

        Raises:
            RunError: another process no longer responds.
        """


class SingleProcess:
    """A single process, whose shard is the whole batch."""

    count = 1
    is_chief = True

    def shard(self, batch: int) -> tuple[int, int]:
        return 0, batch

    def all_reduce(self, tensors: "Sequence[tf.Tensor]", *, copies: int = 1) -> "list[tf.Tensor]":
        return list(tensors)

    def differentiable_sum(self, values: "tf.Tensor") -> "tf.Tensor":
        return values

    def sum_numbers(self, *numbers: float) -> list[float]:
        return list(numbers)

    def broadcast(self, compute: Callable[[], np.ndarray]) -> np.ndarray:
        return compute()

    def broadcast_json(self, content: Any) -> Any:
        return content

    def broadcast_variables(self, variables: "Sequence[keras.Variable]") -> None:
        pass

    def starting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def connected(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


SINGLE = SingleProcess()


class ProcessGroup:
    """Several processes, each with one device.

    Args:
        cluster: the processes.
        gpu: whether they compute on GPUs, which use NCCL for sums.

    Raises:
        RunError: another process did not start in time.
    """

    def __init__(self, cluster: Cluster, *, gpu: bool) -> None:
        self._cluster = cluster
        self.count, self.is_chief = cluster.count, cluster.is_chief
        self._hint = "nccl" if gpu else "ring"
        self._keys = itertools.count(1)
        self._has_spoken = False
        _await_listeners(cluster)
        import tensorflow as tf

        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.rank,
            rpc_layer="grpc",
        )
        # Starts this process's server, waits for the other servers, and monitors them.
        self._strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        # Operations that use this token run one at a time, in the same order everywhere, as NCCL requires.
        self._token = tf.Variable(0.0, trainable=False)
        self._eager_sums: dict[Any, Callable[[tf.Tensor], tf.Tensor]] = {}
        self.sum_numbers(1.0)

    def shard(self, batch: int) -> tuple[int, int]:
        cuts = np.linspace(0, batch, self.count + 1).astype(int)
        return int(cuts[self._cluster.rank]), int(cuts[self._cluster.rank + 1])

    def all_reduce(self, tensors: "Sequence[tf.Tensor]", *, copies: int = 1) -> "list[tf.Tensor]":
        import tensorflow as tf

        flat = tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], 0)
        parts = tf.split(self._sum(flat) / copies, [tensor.shape.num_elements() for tensor in tensors])
        return [
            tf.cast(tf.reshape(part, tensor.shape), tensor.dtype)
            for part, tensor in zip(parts, tensors, strict=True)
        ]

    def differentiable_sum(self, values: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        @tf.custom_gradient
        def summed(local: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            # Each process's result depends on the values of all processes.
            return self._sum(local), self._sum

        return summed(values)

    def sum_numbers(self, *numbers: float) -> list[float]:
        import tensorflow as tf

        return list(map(float, self._sum(tf.constant(numbers, tf.float64)).numpy()))

    def broadcast(self, compute: Callable[[], np.ndarray]) -> np.ndarray:
        import tensorflow as tf

        values = compute() if self.is_chief else np.zeros((0, 0), np.float32)
        shape = [int(size) for size in self.sum_numbers(*values.shape)]
        mine = values if self.is_chief else np.zeros(shape, np.float32)
        result: np.ndarray = self._sum(tf.constant(mine)).numpy()
        return result

    def broadcast_json(self, content: Any) -> Any:
        self._has_spoken = True
        encoded = json.dumps(content).encode() if self.is_chief else b""
        # Send bytes as float32, which every device can sum. Trailing blanks keep the number of shapes small.
        padded = encoded.ljust(-(-len(encoded) // 1024) * 1024)
        values = self.broadcast(lambda: np.frombuffer(padded, np.uint8).astype(np.float32)[None])
        return json.loads(values.astype(np.uint8).tobytes())

    def broadcast_variables(self, variables: "Sequence[keras.Variable]") -> None:
        import tensorflow as tf

        shared = [variable for variable in variables if variable.dtype == "float32"]
        values = [variable.value if self.is_chief else tf.zeros_like(variable.value) for variable in shared]
        for variable, value in zip(shared, self.all_reduce(values), strict=True):
            variable.assign(value)

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._has_spoken:
                self.broadcast_json({"error": str(error)})
            raise

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        from tensorflow.errors import AbortedError, CancelledError, DeadlineExceededError, UnavailableError

        try:
            yield
        except (UnavailableError, AbortedError, CancelledError, DeadlineExceededError) as error:
            gone = [
                f"worker {rank} ({address})"
                for rank, address in enumerate(self._cluster.addresses)
                if rank != self._cluster.rank and not _answers(address)
            ]
            # The others check too, and must still find this process alive.
            time.sleep(3)
            raise RunError(
                f"{' and '.join(gone) or 'Another process of this run'} no longer responds, so training "
                "cannot continue. The last checkpoint is intact: start all processes again with --resume RUN."
            ) from error

    def _sum(self, values: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        if tf.executing_eagerly():
            # TensorFlow never releases an operation's key: take one for each shape, not for each call.
            kind = (*values.shape, values.dtype)
            if kind not in self._eager_sums:
                program = tf.function(self._sum, autograph=False)
                self._eager_sums[kind] = program.get_concrete_function(values)
            return self._eager_sums[kind](values)
        return tf.raw_ops.CollectiveReduceV2(
            input=values,
            group_size=self.count,
            group_key=_GROUP,
            instance_key=next(self._keys),
            ordering_token=[self._token.handle],
            merge_op="Add",
            final_op="Id",
            communication_hint=self._hint,
        )


def _await_listeners(cluster: Cluster) -> None:
    """Wait until every process listens at its address, while listening at this process's own.

    TensorFlow's own wait has no timeout, and neither signals nor threads can interrupt it.

    Raises:
        RunError: a process did not start in time.
    """
    deadline = time.monotonic() + START_SECONDS
    silent = list(cluster.addresses)
    _, port = _split(silent.pop(cluster.rank))
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("", port), family=family, dualstack_ipv6=dual):
        while silent := [address for address in silent if not _answers(address)]:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{', '.join(silent)} did not start within {START_SECONDS:g} s. Check its output, then "
                    "start all processes again."
                )
            time.sleep(0.2)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of a batch that this process computes, for layers that depend on the whole batch.

    Attributes:
        batch: number of images in the batch.
        low, high: first image of the shard, and one past its last.
        replicas: all processes.
    """

    batch: int
    low: int
    high: int
    replicas: Replicas


_joined: dict[Cluster, ProcessGroup] = {}


def join(cluster: Cluster | None, *, gpu: bool) -> Replicas:
    """Connect to the other processes; call this before TensorFlow's first operation."""
    if cluster is None:
        return SINGLE
    if cluster not in _joined:
        _joined[cluster] = ProcessGroup(cluster, gpu=gpu)
    return _joined[cluster]


def choose_gpus(requested: str, device: str) -> list[str]:
    """The GPUs requested by `--gpus`, as CUDA_VISIBLE_DEVICES identifies them.

    Raises:
        UsageError: the value is not a number, or conflicts with other settings.
        DeviceError: there are fewer GPUs.
    """
    if find_cluster() is not None:
        raise UsageError(
            "--gpus starts its own processes and cannot be combined with TF_CONFIG or srun. Leave it out."
        )
    if device == "cpu":
        raise UsageError(f"--gpus {requested} cannot be combined with --device cpu. Leave one of them out.")
    if requested != "all" and not (requested.isdecimal() and int(requested) > 0):
        raise UsageError(f"--gpus {requested!r} is invalid. Expected a number such as 2, or all.")
    gpus = visible_gpus()
    count = len(gpus) if requested == "all" else int(requested)
    if not gpus or count > len(gpus):
        raise DeviceError(
            f"--gpus {requested}: this machine has {counted(len(gpus), 'visible NVIDIA GPU')}. "
            "See cifar-trainer env, and CUDA_VISIBLE_DEVICES."
        )
    return gpus[:count]


def train_together(arguments: Sequence[str], gpus: Sequence[str]) -> int:
    """Run `cifar-trainer ARGUMENTS` once for each GPU, as the processes of one cluster.

    The chief uses this process's standard streams. It receives forwarded signals, and stops the others.

    Returns:
        The chief's exit code, or that of another process if the chief succeeded.
    """
    addresses = _free_addresses(len(gpus))
    # --gpus applies to this process; each child has one GPU.
    environment = {name: value for name, value in os.environ.items() if name != "CIFAR_TRAINER_TRAIN_GPUS"}
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in gpus[1:]]
        processes = [
            subprocess.Popen(
                module_command("cifar_trainer", *arguments),
                env={**environment, "TF_CONFIG": tf_config(addresses, rank), "CUDA_VISIBLE_DEVICES": gpu},
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=None if rank == 0 else logs[rank - 1],
                # Otherwise Ctrl-C in a terminal would reach all children, and the chief twice.
                process_group=0,
            )
            for rank, gpu in enumerate(gpus)
        ]

        def forward(number: int, frame: FrameType | None) -> None:
            processes[0].send_signal(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before = signal.signal(number, forward)
            stack.callback(signal.signal, number, before)
        codes = [process.wait() for process in processes]
        for rank, (code, log) in enumerate(zip(codes[1:], logs, strict=True), 1):
            if code != 0 and code != codes[0]:
                log.seek(0)
                sys.stderr.write(f"worker {rank}: {log.read().decode(errors='replace').strip()[-2000:]}\n")
    code = next((code for code in codes if code != 0), 0)
    return 128 - code if code < 0 else code


def _free_addresses(count: int) -> tuple[str, ...]:
    """Addresses with ports of this machine that are currently free; all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{bound.getsockname()[1]}" for bound in sockets)
