"""The report of `cifar-trainer env`: versions, a test of every device, and what is missing to use a GPU."""

import dataclasses
import statistics
import time
from typing import Any, Literal

import numpy as np

from cifar_trainer.devices import cuda
from cifar_trainer.devices.cuda import Missing
from cifar_trainer.devices.record import describe_environment
from cifar_trainer.devices.start import Device, describe_cpu, describe_gpu, start
from cifar_trainer.extras import optional_packages
from cifar_trainer.results import Result

#: The convolution: a batch of 32 images of 32×32×64, kernel 3×3, 64 output channels of 30×30.
SHAPE, FILTER = (32, 32, 32, 64), (3, 3, 64, 64)
#: Its FLOPs: two for each output value, input channel and kernel position.
FLOPS = 2 * 32 * 30 * 30 * 64 * 3 * 3 * 64
REPEATS = 7


@dataclasses.dataclass(frozen=True)
class Trial:
    """The test of one device with a convolution.

    Attributes:
        device: TensorFlow's name of the device, such as `/GPU:0`.
        kind: `cpu` or `gpu`.
        description: the device's own name.
        error: why it failed; None if the result was correct.
        first_milliseconds: duration of the first run, including loading and compilation.
        milliseconds: median duration of the later runs.
        gflops: 10^9 floating-point operations per second, from that median.
    """

    device: str
    kind: Literal["cpu", "gpu"]
    description: str
    error: str | None
    first_milliseconds: float | None = None
    milliseconds: float | None = None
    gflops: float | None = None


@dataclasses.dataclass(frozen=True)
class Survey(Result):
    """Versions, devices and CUDA.

    Attributes:
        record: the environment.json of a run with `--device auto`.
        extras: versions of the optional packages; None for those that are not installed.
        trials: one for each device.
        cuda: driver and CUDA libraries, with or without a GPU.
        missing: why a GPU or its statistics cannot be used.
    """

    record: dict[str, Any]
    extras: dict[str, str | None]
    trials: tuple[Trial, ...]
    cuda: cuda.Cuda
    missing: tuple[Missing, ...]

    def to_json(self) -> dict[str, Any]:
        """What `env --json` prints."""
        installed = dataclasses.asdict(self.cuda)
        del installed["missing"]
        return {
            **self.record,
            "cuda": installed,
            "extras": self.extras,
            "devices": [dataclasses.asdict(trial) for trial in self.trials],
            "missing": [dataclasses.asdict(missing) for missing in self.missing],
        }


def environment(*, verbose: bool = False) -> Survey:
    """Report versions, libraries and devices, and run a convolution on each device.

    Args:
        verbose: show TensorFlow's own messages.
    """
    device: Device = start(verbose=verbose)
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    trials = [try_device("/CPU:0", "cpu", describe_cpu())]
    trials += [try_device(f"/GPU:{index}", "gpu", describe_gpu(index)) for index in range(len(gpus))]
    installed = cuda.inspect(tf.sysconfig.get_build_info(), listed=bool(gpus))
    extras = optional_packages()
    missing = installed.missing
    if installed.gpu_present and extras.get("nvidia-ml-py") is None:
        missing += (
            Missing(
                "nvidia-ml-py is not installed: no readings of utilization, memory, power and energy",
                "pip install nvidia-ml-py",
            ),
        )
    return Survey(describe_environment(device), extras, tuple(trials), installed, missing)


def try_device(name: str, kind: Literal["cpu", "gpu"], description: str) -> Trial:
    """Run the operations that training needs on one device, check their results, and time a convolution.

    An elementwise operation and a compiled convolution with bias and ReLU come first: with some drivers and
    cuDNN versions, they fail even though a plain convolution works.
    """
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def convolve_with_bias(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(images, kernel, 1, "VALID"), bias))

    seconds = []
    try:
        with tf.device(name):
            images, kernel = tf.ones(SHAPE), tf.ones(FILTER)
            expected = float(np.prod(FILTER[:3]))
            elementwise = (tf.ones(4) * 2 + 1).numpy()
            compiled = convolve_with_bias(images, kernel, tf.ones(FILTER[3])).numpy()
            for _ in range(1 + REPEATS):
                began = time.perf_counter()
                result = tf.nn.conv2d(images, kernel, 1, "VALID")
                # Copy only one number: copying the whole result would measure the bus.
                result[0, 0, 0, 0].numpy()
                seconds.append(time.perf_counter() - began)
    except tf.errors.OpError as error:
        return Trial(name, kind, description, str(error.message).strip().split("\n")[0])
    checks = (
        ("elementwise operation", elementwise, 3.0),
        ("compiled convolution", compiled, expected + 1),
        ("convolution", result.numpy(), expected),
    )
    for what, values, correct in checks:
        # With a tolerance: algorithms such as Winograd's round, even if the sum is a whole number.
        if not np.allclose(values, correct, rtol=1e-3):
            wrong = float(values.flat[np.abs(values - correct).argmax()])
            return Trial(name, kind, description, f"wrong {what}: {wrong}, expected {correct}")
    median = statistics.median(seconds[1:])
    return Trial(name, kind, description, None, 1000 * seconds[0], 1000 * median, FLOPS / median / 1e9)
