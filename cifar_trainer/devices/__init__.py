"""Starts TensorFlow, chooses the device and threads, and records the environment.

Importing this package does not import TensorFlow; `load_tensorflow` does.
"""

from cifar_trainer.devices.machine import is_slow
from cifar_trainer.devices.record import compare_environments, describe_environment
from cifar_trainer.devices.start import (
    Device,
    choose_device,
    load_tensorflow,
    prepare,
    start,
)

__all__ = [
    "Device",
    "choose_device",
    "compare_environments",
    "describe_environment",
    "is_slow",
    "load_tensorflow",
    "prepare",
    "start",
]
