"""What a run runs on: TensorFlow's start, the device, the threads, and a record of it all.

Importing this package imports no TensorFlow; `load_tensorflow` does.
"""

from cifar_trainer.environment.devices import Device, choose_device
from cifar_trainer.environment.machine import is_slow
from cifar_trainer.environment.record import compare_environments, describe
from cifar_trainer.environment.startup import (
    Threads,
    configure_threads,
    enable_determinism,
    load_tensorflow,
)

__all__ = [
    "Device",
    "Threads",
    "choose_device",
    "compare_environments",
    "configure_threads",
    "describe",
    "enable_determinism",
    "is_slow",
    "load_tensorflow",
]
