"""Several processes that train one model: each computes a part of every batch, and all sum what they found.

The collective operations are those of `tf.distribute`. Each process has all of the model's variables, which
stay equal because all apply the same summed gradients; so a process is an ordinary run with a part of the
batch. The chief writes the run's folder, and decides what depends on a clock.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from cifar_trainer.devices.cluster import Cluster
from cifar_trainer.errors import RunError

#: Seconds that the others have to start.
PATIENCE = 120.0
#: Names the operations among all processes, apart from those of tf.distribute itself.
_GROUP = 9_001
#: What an operation raises whose partner has gone.
_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Alone:
    """One process trains the model: every part is the whole.

    Attributes:
        count: processes.
        is_chief: whether this one writes the run's folder.
    """

    count = 1
    is_chief = True

    def part(self, batch: int) -> tuple[int, int]:
        """Which images of a batch are this process's: from the first to before the second number."""
        return 0, batch

    def sums(self, tensors: Sequence[tf.Tensor], *, copies: int = 1) -> list[tf.Tensor]:
        """Each tensor's sum over the processes, of the same shape and dtype; in one operation.

        Args:
            tensors: of this process, float32 or int32.
            copies: processes that computed the same, so that the sum is divided by them.
        """
        return list(tensors)

    def differentiable_sum(self, values: tf.Tensor) -> tf.Tensor:
        """The sum over the processes, through which a gradient flows back to each of them."""
        return values

    def totals(self, *numbers: float) -> list[float]:
        """Each number's sum over the processes."""
        return list(numbers)

    def of_chief(self, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """What `compute` gives on the chief, float32 [N, K]; the others do not call it."""
        return compute()

    def message(self, content: Any) -> Any:
        """What the chief says, as JSON; the `content` of others is left aside."""
        return content

    def share(self, variables: Sequence[keras.Variable]) -> None:
        """Give the float32 variables of all processes the values of the chief's."""

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        """While this holds, the others wait for the chief's first message; where it fails, they are told."""
        yield

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """While this holds, the processes depend on each other.

        Raises:
            RunError: another one has gone.
        """
        yield


ALONE = Alone()


class Replicas(Alone):
    """Several processes, each with one device.

    Args:
        cluster: who they are.
        gpu: whether they compute on GPUs, which sum by NCCL.
    """

    def __init__(self, cluster: Cluster, *, gpu: bool) -> None:
        self._cluster = cluster
        self.count, self.is_chief = cluster.count, cluster.is_chief
        self._hint = "nccl" if gpu else "ring"
        self._keys = itertools.count(1)
        self._told = False
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
            task_type="worker",
            task_id=cluster.rank,
            rpc_layer="grpc",
        )
        with self._at_most(PATIENCE):
            # It starts this process's server, waits for the others', and notices where one goes.
            self._strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
            # Operations that carry it run one after the other, as NCCL needs; in the same order everywhere.
            self._token = tf.Variable(0.0, trainable=False)
            self.totals(1.0)

    def part(self, batch: int) -> tuple[int, int]:
        cuts = np.linspace(0, batch, self.count + 1).astype(int)
        return int(cuts[self._cluster.rank]), int(cuts[self._cluster.rank + 1])

    def sums(self, tensors: Sequence[tf.Tensor], *, copies: int = 1) -> list[tf.Tensor]:
        flat = tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], 0)
        parts = tf.split(self._sum(flat) / copies, [tensor.shape.num_elements() for tensor in tensors])
        return [
            tf.cast(tf.reshape(part, tensor.shape), tensor.dtype)
            for part, tensor in zip(parts, tensors, strict=True)
        ]

    def differentiable_sum(self, values: tf.Tensor) -> tf.Tensor:
        @tf.custom_gradient
        def summed(local: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            # Each process's result depends on each one's values.
            return self._sum(local), self._sum

        return summed(values)

    def totals(self, *numbers: float) -> list[float]:
        return list(map(float, self._sum(tf.constant(numbers, tf.float64)).numpy()))

    def of_chief(self, compute: Callable[[], np.ndarray]) -> np.ndarray:
        values = compute() if self.is_chief else np.zeros((0, 0), np.float32)
        shape = [int(size) for size in self.totals(*values.shape)]
        found: np.ndarray = self._sum(
            tf.constant(values if self.is_chief else np.zeros(shape, np.float32))
        ).numpy()
        return found

    def message(self, content: Any) -> Any:
        self._told = True
        encoded = json.dumps(content).encode() if self.is_chief else b""
        # Bytes as float32, which every device sums.
        values = self.of_chief(lambda: np.frombuffer(encoded, np.uint8).astype(np.float32)[None])
        return json.loads(values.astype(np.uint8).tobytes())

    def share(self, variables: Sequence[keras.Variable]) -> None:
        shared = [variable for variable in variables if variable.dtype == "float32"]
        values = [variable.value if self.is_chief else tf.zeros_like(variable.value) for variable in shared]
        for variable, value in zip(shared, self.sums(values), strict=True):
            variable.assign(value)

    @contextlib.contextmanager
    def leading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._told:
                self.message({"error": str(error)})
            raise

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        try:
            yield
        except _GONE as error:
            gone = [
                f"worker {rank} ({address})"
                for rank, address in enumerate(self._cluster.addresses)
                if rank != self._cluster.rank and not _answers(address)
            ]
            # The others ask as well, and must not take this process for the one that went first.
            time.sleep(3)
            raise RunError(
                f"{' and '.join(gone) or 'Another process of this run'} no longer answers, so training "
                "cannot go on. The last checkpoint is whole: start all processes again, with --resume RUN."
            ) from error

    def _sum(self, values: tf.Tensor) -> tf.Tensor:
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

    @contextlib.contextmanager
    def _at_most(self, seconds: float) -> Iterator[None]:
        """End the process where the block takes longer: nothing else ends TensorFlow's wait for a server."""

        def give_up() -> None:
            silent = [address for address in self._cluster.addresses if not _answers(address)]
            print(
                f"Error: {', '.join(silent) or 'a process of this run'} did not start within {seconds:g} s. "
                "See why, and start all processes again.",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False


@dataclasses.dataclass(frozen=True)
class Part:
    """What a layer must know that computes a part of a batch.

    Attributes:
        batch: images of the whole batch.
        low, high: this part's.
        replicas: who compute the others.
    """

    batch: int
    low: int
    high: int
    replicas: Alone


_joined: dict[Cluster, Replicas] = {}


def join(cluster: Cluster | None, *, gpu: bool) -> Alone:
    """Meet the other processes; to be called before TensorFlow's first operation, and once a process."""
    if cluster is None:
        return ALONE
    if cluster not in _joined:
        _joined[cluster] = Replicas(cluster, gpu=gpu)
    return _joined[cluster]
