"""What a run runs on: TensorFlow's start, the device, the threads, and a record of it all.

Importing this package imports no TensorFlow; `load_tensorflow` does.
"""

from cifar_trainer.devices.machine import is_slow
from cifar_trainer.devices.record import compare_environments, describe_environment
from cifar_trainer.devices.start import (
    Device,
    Threads,
    choose_device,
    configure_threads,
    enable_determinism,
    load_tensorflow,
    prepare,
    start,
)

__all__ = [
    "Device",
    "Threads",
    "choose_device",
    "compare_environments",
    "configure_threads",
    "describe_environment",
    "enable_determinism",
    "is_slow",
    "load_tensorflow",
    "prepare",
    "start",
]
