"""Time of the gradients of 3×3 convolutions' kernels in bfloat16 on the CPU: oneDNN's, and ours.

    python benchmarks/kernel_gradients.py

Prints the fastest of several calls in turn, in ms. Ours is the one of `training.convolutions`, also for
outputs that it leaves to oneDNN.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from against_listing import processor

from cifar_trainer.training import convolutions

#: Batch, side, and input and output channels; the last convolutions of `cpu90` and `fast94`, and larger ones.
SHAPES = (
    (512, 3, 256, 256), (500, 5, 128, 128), (500, 7, 128, 128), (512, 7, 256, 256), (500, 8, 128, 128),
    (500, 11, 32, 128), (500, 15, 32, 128), (512, 15, 64, 256),
)  # fmt: skip


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{processor()}, TensorFlow {tf.__version__}\n")
    print("| batch, output, channels | oneDNN | as convolutions |\n| --- | ---: | ---: |")
    convolutions.SMALL_AREA = 1 << 30
    for batch, side, inputs, outputs in SHAPES:
        own = gradients_of(convolutions.convolve_on_cpu, batch, side, inputs, outputs)
        theirs = gradients_of(plain, batch, side, inputs, outputs)
        times: dict[str, list[float]] = {"theirs": [], "own": []}
        for _ in range(options.repeats + 1):
            for name, function in (("theirs", theirs), ("own", own)):
                began = time.perf_counter()
                function()
                times[name].append(1e3 * (time.perf_counter() - began))
        # Without the first call, which compiles.
        fastest = [f"{min(each[1:]):.1f}" for each in times.values()]
        print(f"| {batch}, {side}×{side}, {inputs} to {outputs} | {' | '.join(fastest)} |", flush=True)


def plain(images: tf.Tensor, kernel: tf.Tensor, pads: Sequence[tuple[int, int]]) -> tf.Tensor:
    """A convolution with TensorFlow's gradients; `pads` are those of its padding `SAME`."""
    return tf.nn.conv2d(images, kernel, 1, "SAME")


def gradients_of(
    convolve: Callable[..., tf.Tensor], batch: int, side: int, inputs: int, outputs: int
) -> Callable[[], tf.Tensor]:
    """A compiled function that computes the gradient of a convolution's kernel."""
    draw = np.random.default_rng(0)
    images = tf.cast(draw.normal(size=(batch, side, side, inputs)), tf.bfloat16)
    kernel = tf.cast(draw.normal(size=(3, 3, inputs, outputs)), tf.bfloat16)
    upstream = tf.cast(draw.normal(size=(batch, side, side, outputs)), tf.bfloat16)

    @tf.function(autograph=False)
    def function() -> tf.Tensor:
        return tf.gradients(convolve(images, kernel, ((1, 1), (1, 1))), kernel, upstream)[0]

    return function


if __name__ == "__main__":
    main()
