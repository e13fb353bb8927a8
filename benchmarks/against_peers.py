"""Training speed of a recipe's network in other frameworks, on the same cores.

    python benchmarks/against_peers.py --batch-size 32 --seconds 10 --repeats 3
    python benchmarks/against_peers.py --peers torch jax --python torch=VENV/bin/python --output peers.json
    python benchmarks/against_peers.py --recipe fast94 --batch-size 512 --precision bfloat16

Every contestant trains the same network with the same kind of optimizer on all usable cores, and gathers its
batches from 10,000 random images in memory. Keras `fit` and JAX train `tutorial` in float32 only. In
bfloat16, PyTorch's weights are bfloat16 too, as in airbench94, which gives it an advantage. Each runs in its
own process, and they take turns, so that a slow phase of the machine affects all of them. The clock starts
after a warm-up, so it excludes compiling. PyTorch and JAX are optional: if one is not installed or fails, its
row of the table shows the error. `--python NAME=PATH` sets the interpreter of a contestant or of a framework.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OURS = "cifar-trainer"
IMAGES, PARAMETERS = 10_000, 122_570
#: Steps before the clock starts, but at most `--seconds` of them.
WARM_UP = 50
#: Steps per call of `jax scan`.
SCANNED = 32
#: Seconds for a contestant to start, compile and warm up. On a CPU, XLA's convolutions can be far slower in a
#: loop, as in `jax scan`.
STARTUP_SECONDS = 120


class PeerError(Exception):
    """A contestant failed; the message is the end of its output."""


def draw_data() -> tuple[Any, Any]:
    """Images, uint8 [N, 32, 32, 3], and labels, int64 [N], of ten classes."""
    import numpy as np

    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8), draw.integers(0, 10, IMAGES)


def draw_batches(batch_size: int) -> Iterator[Any]:
    """Endless batches of indices, int64 [B], in a new order each epoch."""
    import numpy as np

    draw = np.random.default_rng(1)
    while True:
        order = draw.permutation(IMAGES)
        for first in range(0, IMAGES - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def check_parameters(count: int, expected: int = PARAMETERS) -> None:
    """Exit if the network does not have the expected number of parameters."""
    if count != expected:
        sys.exit(f"The network has {count:,} parameters, expected {expected:,}")


def measure(
    step: Callable[[], None], batch_size: int, seconds: float, *, finish: Callable[[], None], steps: int = 1
) -> float:
    """Images per second of a function that trains on `steps` batches per call.

    Args:
        step: trains; may return before the device has finished.
        batch_size: images per batch.
        seconds: duration after the warm-up.
        finish: waits for the device.
        steps: batches per call.
    """
    start = time.perf_counter()
    for _ in range(-(-WARM_UP // steps)):
        step()
        if time.perf_counter() - start > seconds:
            break
    finish()
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step()
        calls += 1
    finish()
    return calls * steps * batch_size / (time.perf_counter() - start)


def train_torch(options: argparse.Namespace, *, channels_last: bool, fused: bool, compiled: bool) -> float:
    """PyTorch: one step per call, as in a Python training loop."""
    import torch
    from torch import nn
    from torch_networks import NETWORKS

    torch.set_num_threads(usable_cores())
    # Full float32, like `--precision float32` on a GPU.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    target = torch.device("cuda" if options.device == "gpu" else "cpu")
    dtype = getattr(torch, options.precision)
    build, make_optimizer, smoothing, parameters = NETWORKS[options.recipe]
    model: Any = build().to(target, dtype)
    check_parameters(sum(each.numel() for each in model.parameters() if each.requires_grad), parameters)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = make_optimizer(weights, **({"fused": True} if fused else {}))
    pixels, classes = draw_data()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(memory_format=layout).to(target)
    labels = torch.from_numpy(classes).to(target)
    if compiled:
        model = torch.compile(model)
    batches = draw_batches(options.batch_size)

    def step() -> None:
        indices = torch.from_numpy(next(batches)).to(target)
        optimizer.zero_grad(set_to_none=True)
        logits = model(images[indices].to(dtype) / 255).float()
        nn.functional.cross_entropy(logits, labels[indices], label_smoothing=smoothing).backward()
        optimizer.step()

    def finish() -> None:
        if options.device == "gpu":
            torch.cuda.synchronize()

    return measure(step, options.batch_size, options.seconds, finish=finish)


def train_jax(options: argparse.Namespace, *, scanned: bool) -> float:
    """JAX: one compiled step per call, or a compiled loop over `SCANNED` steps."""
    batch_size, seconds, device = options.batch_size, options.seconds, options.device
    os.environ["JAX_PLATFORMS"] = "cuda" if device == "gpu" else "cpu"
    import jax
    import numpy as np
    from jax import lax
    from jax import numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    draw = np.random.default_rng(2)
    shapes = [(3, 3, 3, 32), (3, 3, 32, 64), (3, 3, 64, 64), (1024, 64), (64, 10)]
    weights = [
        (
            jnp.asarray(draw.normal(0, np.prod(shape[:-1]) ** -0.5, shape), jnp.float32),
            jnp.zeros(shape[-1]),
        )
        for shape in shapes
    ]
    check_parameters(sum(leaf.size for leaf in jax.tree.leaves(weights)))
    pixels, classes = draw_data()
    images, labels = jnp.asarray(pixels), jnp.asarray(classes, jnp.int32)

    def pool(x: Any) -> Any:
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    def loss(weights: Any, x: Any, y: Any) -> Any:
        for i, (kernel, bias) in enumerate(weights[:3]):
            layout = ("NHWC", "HWIO", "NHWC")
            x = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
            x = jax.nn.relu(x + bias)
            x = pool(x) if i < 2 else x
        x = jax.nn.relu(x.reshape(x.shape[0], -1) @ weights[3][0] + weights[3][1])
        logits = x @ weights[4][0] + weights[4][1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

    def update(state: Any, indices: Any) -> tuple[Any, Any]:
        weights, first, second, count = state
        count += 1
        value, slopes = jax.value_and_grad(loss)(
            weights, images[indices].astype(jnp.float32) / 255, labels[indices]
        )
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slopes)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slopes)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + 1e-7), weights, first, second)
        return (weights, first, second, count), value

    # A compiled loop over many batches, or one call per batch.
    many = jax.jit(lambda state, indices: lax.scan(update, state, indices)[0], donate_argnums=0)
    one = jax.jit(lambda state, indices: update(state, indices)[0], donate_argnums=0)
    zeros = [jax.tree.map(jnp.zeros_like, weights) for _ in range(2)]
    states = [(weights, *zeros, jnp.zeros((), jnp.float32))]
    batches = draw_batches(batch_size)

    def step() -> None:
        if scanned:
            states[0] = many(states[0], np.stack([next(batches) for _ in range(SCANNED)]).astype(np.int32))
        else:
            states[0] = one(states[0], next(batches).astype(np.int32))

    def finish() -> None:
        jax.block_until_ready(states[0])

    return measure(step, batch_size, seconds, finish=finish, steps=SCANNED if scanned else 1)


def train_keras(options: argparse.Namespace) -> float:
    """Keras `fit` with TensorFlow's defaults, as in the tutorial: the median epoch after the first."""
    batch_size, seconds, device = options.batch_size, options.seconds, options.device
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import keras
    import tensorflow as tf
    from keras import layers

    tf.config.experimental.enable_tensor_float_32_execution(False)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)), layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"), layers.Flatten(),
            layers.Dense(64, activation="relu"), layers.Dense(10),
        ]
    )  # fmt: skip
    check_parameters(model.count_params())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images, labels = draw_data()
    images = images / 255.0

    def fit() -> float:
        start = time.perf_counter()
        model.fit(images, labels, batch_size, verbose=0)
        return time.perf_counter() - start

    # The first epoch includes compiling.
    fit()
    epochs: list[float] = []
    while sum(epochs) < seconds:
        epochs.append(fit())
    return IMAGES / statistics.median(epochs)


#: By name: the package that a peer needs, and the function that trains it.
PEERS: dict[str, tuple[str, Callable[[argparse.Namespace], float]]] = {
    "keras fit": ("keras", train_keras),
    "torch": ("torch", lambda o: train_torch(o, channels_last=False, fused=False, compiled=False)),
    "torch channels_last": (
        "torch",
        lambda o: train_torch(o, channels_last=True, fused=False, compiled=False),
    ),
    "torch channels_last fused": (
        "torch",
        lambda o: train_torch(o, channels_last=True, fused=True, compiled=False),
    ),
    "torch compile": ("torch", lambda o: train_torch(o, channels_last=True, fused=True, compiled=True)),
    "jax": ("jax", lambda o: train_jax(o, scanned=False)),
    "jax scan": ("jax", lambda o: train_jax(o, scanned=True)),
}


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_contestant(name: str, options: argparse.Namespace) -> float:
    """A contestant's images per second, measured in a new process.

    Raises:
        PeerError: it is not installed, or it failed.
    """
    interpreters = dict(each.split("=", 1) for each in options.python)
    arguments = ["--batch-size", str(options.batch_size), "--seconds", str(options.seconds)]
    arguments += ["--device", options.device, "--recipe", options.recipe, "--precision", options.precision]
    if name == OURS:
        python = interpreters.get(name, sys.executable)
        command = [python, "-m", "cifar_trainer", "-q", "benchmark", "--train", "--json", *arguments]
    else:
        python = interpreters.get(name, interpreters.get(PEERS[name][0], sys.executable))
        command = [python, __file__, "--child", name, *arguments]
    limit = STARTUP_SECONDS + 2 * options.seconds
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"timed out after {limit:.0f} s") from error
    if done.returncode != 0:
        raise PeerError(done.stderr.strip()[-2000:] or f"exit code {done.returncode}")
    printed = json.loads(done.stdout)
    return float((printed["training"] if name == OURS else printed)["images_per_second"])


def train_child(name: str, options: argparse.Namespace) -> None:
    """Train one peer in this process, and print its images per second as JSON."""
    package, train = PEERS[name]
    if importlib.util.find_spec(package) is None:
        sys.exit(f"{package} is not installed")
    rate = train(options)
    print(json.dumps({"images_per_second": rate}))


def main() -> None:
    """Run the contestants in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="tutorial", choices=("tutorial", "fast94", "resnet18", "vit"))
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0, help="per measurement, after a warm-up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), help="default: all that train the recipe")
    parser.add_argument("--python", nargs="*", default=[], metavar="NAME=PATH", help="other interpreters")
    parser.add_argument("--output", type=Path, help="save all results as JSON after each run")
    parser.add_argument("--child", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_child(options.child, options)
        return
    if options.peers is None:
        is_tutorial = options.recipe == "tutorial" and options.precision == "float32"
        options.peers = [name for name, (package, _) in PEERS.items() if is_tutorial or package == "torch"]
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(), "cores": usable_cores(),
        "recipe": options.recipe, "precision": options.precision,
        "batch_size": options.batch_size, "device": options.device,
        "images_per_second": {name: [] for name in [OURS, *options.peers]}, "failures": {},
    }  # fmt: skip
    for _ in range(options.repeats):
        for name in results["images_per_second"]:
            if name in results["failures"]:
                continue
            try:
                results["images_per_second"][name].append(run_contestant(name, options))
            except PeerError as error:
                # Report the failure in the table, and continue with the others.
                results["failures"][name] = str(error)
            if options.output:
                options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(format_table(results))


def format_table(results: dict[str, Any]) -> str:
    """A Markdown table of medians, and of the speed of `cifar-trainer` relative to each."""
    settings = ", ".join(str(results[name]) for name in ("recipe", "precision", "batch_size", "device"))
    lines = [f"| {settings} | images/s | {OURS} / this |"]
    lines.append("| --- | ---: | ---: |")
    rates = results["images_per_second"]
    ours = statistics.median(rates[OURS]) if rates[OURS] else float("nan")
    for name, measured in rates.items():
        if measured:
            rate = statistics.median(measured)
            lines.append(f"| {name} | {rate:,.0f} | {ours / rate:.2f} |")
        else:
            lines.append(f"| {name} | failed: {results['failures'][name].splitlines()[-1]} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
