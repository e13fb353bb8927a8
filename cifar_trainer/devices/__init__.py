"""Starts TensorFlow, chooses the device and threads, and records the environment.

Importing this package does not import TensorFlow; `load_tensorflow` does.
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
