"""`train --gpus N`: one process for each GPU of this machine, started and waited for by this one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import FrameType

from cifar_trainer.cli.signals import SIGNALS
from cifar_trainer.devices.cluster import find_cluster, tf_config
from cifar_trainer.devices.cuda import visible_gpus
from cifar_trainer.errors import DeviceError, UsageError
from cifar_trainer.process import module_command


def choose_gpus(wanted: str, device: str) -> list[str]:
    """The GPUs that `--gpus` means, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        UsageError: it is no number, or does not go with the other settings.
        DeviceError: there are fewer.
    """
    if find_cluster() is not None:
        raise UsageError(
            "--gpus starts processes of its own and does not go with TF_CONFIG or srun. Leave it out."
        )
    if device == "cpu":
        raise UsageError(f"--gpus {wanted} does not go with --device cpu. Leave one of them out.")
    if wanted != "all" and not (wanted.isdecimal() and int(wanted) > 0):
        raise UsageError(f"--gpus {wanted!r} is not known. Expected a number such as 2, or all.")
    gpus = visible_gpus()
    count = len(gpus) if wanted == "all" else int(wanted)
    if not gpus or count > len(gpus):
        raise DeviceError(
            f"--gpus {wanted}: this machine shows {len(gpus)} NVIDIA {'GPU' if len(gpus) == 1 else 'GPUs'}. "
            "See cifar-trainer env, and CUDA_VISIBLE_DEVICES."
        )
    return gpus[:count]


def train_together(arguments: Sequence[str], gpus: Sequence[str]) -> int:
    """Run `cifar-trainer ARGUMENTS` once for each GPU, as the processes of one cluster.

    The first one has this process's streams. A signal goes to it, and it stops all of them.

    Returns:
        The first one's exit code, or that of another one which failed.
    """
    addresses = _free_addresses(len(gpus))
    # Each process has one GPU: the number is this process's.
    environment = {name: value for name, value in os.environ.items() if name != "CIFAR_TRAINER_TRAIN_GPUS"}
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(tempfile.TemporaryFile()) for _ in gpus[1:]]
        processes = [
            subprocess.Popen(
                module_command("cifar_trainer", *arguments),
                env={**environment, "TF_CONFIG": tf_config(addresses, rank), "CUDA_VISIBLE_DEVICES": gpu},
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=None if rank == 0 else logs[rank - 1],
                # Ctrl-C in a terminal would reach all of them, and this process's hand-over come second.
                process_group=0,
            )
            for rank, gpu in enumerate(gpus)
        ]

        def hand_over(number: int, frame: FrameType | None) -> None:
            processes[0].send_signal(number)

        for number in SIGNALS:
            before = signal.signal(number, hand_over)
            stack.callback(signal.signal, number, before)
        codes = [process.wait() for process in processes]
        for rank, (code, log) in enumerate(zip(codes[1:], logs, strict=True), 1):
            if code != 0 and code != codes[0]:
                log.seek(0)
                sys.stderr.write(f"worker {rank}: {log.read().decode(errors='replace').strip()[-2000:]}\n")
    code = next((code for code in codes if code != 0), 0)
    return 128 - code if code < 0 else code


def _free_addresses(count: int) -> tuple[str, ...]:
    """Ports of this machine that are free now; all are held until the last is found."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
