"""Compare `cifar-trainer train` with the script of TensorFlow's CNN tutorial: time, memory, accuracy.

    python benchmarks/against_listing.py --data-dir data --epochs 10 --repeats 3
    python benchmarks/against_listing.py --device gpu --deterministic

Measures whole processes from start to exit. The contestants take turns, so that a slow phase of
the machine affects all of them. Prints the machine, the versions, each run, and the ratios of the
medians to the listing; `--output` saves them as JSON.
"""

import argparse
import csv
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cifar_trainer.devices.cuda import bus_id
from cifar_trainer.devices.telemetry import GpuTelemetry

#: FLOPs of training on one image with the tutorial's network: forward, and twice as many backward, except
#: that the first layer does not need the gradient of its input.
_FORWARD_MACS = (30 * 30 * 32 * 27, 13 * 13 * 64 * 288, 4 * 4 * 64 * 576, 1024 * 64, 64 * 10)
FLOPS_PER_IMAGE = 2 * (3 * sum(_FORWARD_MACS) - _FORWARD_MACS[0])

ROOT = Path(__file__).resolve().parent.parent


class ContestantError(Exception):
    """A contestant failed; the message is the end of its output."""


def run(command: list[str], device: str) -> dict[str, Any]:
    """Run a command on a device.

    Returns:
        Wall time in s, peak host memory in MiB (ru_maxrss), peak memory of the whole GPU in MiB (None without
        a GPU), and the output.

    Raises:
        ContestantError: the exit code is not 0.
    """
    setting = {"CUDA_VISIBLE_DEVICES": "-1"} if device == "cpu" else {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    env = {**os.environ, **setting}
    with tempfile.TemporaryFile("w+") as output, GpuTelemetry(None if device == "cpu" else bus_id(0)) as gpu:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True, env=env)
        errors = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        gpu_memory = gpu.mark().memory_mib
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise ContestantError(f"{' '.join(command)} failed with {process.returncode}:\n{errors[-3000:]}")
    return {
        "seconds": seconds,
        "memory_mib": usage.ru_maxrss / 1024,
        "gpu_memory_mib": gpu_memory,
        "output": text,
    }


def listing(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tutorial's script once, in a new process."""
    command = [sys.executable, str(ROOT / "examples" / "listing.py"), "--data-dir", str(options.data_dir)]
    command += ["--dataset", options.dataset, "--epochs", str(options.epochs)]
    command += [] if options.limit is None else ["--limit", str(options.limit)]
    done = run(command, options.device)
    accuracy = re.search(r"test accuracy: ([\d.]+)", done["output"])
    # Keras prints whole seconds and "12ms/step"; the script prints exact seconds.
    epochs = [float(s) for s in re.findall(r"^epoch seconds: ([\d.]+)$", done["output"], re.MULTILINE)]
    return {
        **_measured(done),
        "accuracy": float(accuracy[1]) if accuracy else float("nan"),
        # The first epoch includes compiling.
        "epoch_seconds": statistics.median(epochs[1:] or epochs),
    }


def ours(options: argparse.Namespace, seed: int, extra: list[str]) -> dict[str, Any]:
    """Run `cifar-trainer train` once, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cifar_trainer", "train", "--json", "--quiet", "--offline"]
        command += ["--data-dir", str(options.data_dir), "--dataset", options.dataset]
        command += ["--epochs", str(options.epochs), "--seed", str(seed), "--run-dir", f"{folder}/run"]
        command += [] if options.limit is None else ["--limit", str(options.limit)]
        done = run([*command, "--device", options.device, *extra], options.device)
        with open(f"{folder}/run/history.csv", encoding="utf-8") as file:
            epochs = [float(row["seconds"]) for row in csv.DictReader(file)]
    result = json.loads(done["output"])
    return {
        **_measured(done),
        "accuracy": result["validation"]["accuracy"],
        "epoch_seconds": statistics.median(epochs[1:] or epochs),
        "images_per_second": result["images_per_second"],
    }


def _measured(done: Mapping[str, Any]) -> dict[str, Any]:
    return {name: done[name] for name in ("seconds", "memory_mib", "gpu_memory_mib")}


def matrix_product_rate(device: str) -> float:
    """The device's float32 matrix-product rate in TensorFlow, in GFLOP/s: the best of five calls."""
    size, products = (8192, 20) if device == "gpu" else (1024, 3)
    program = (
        "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        "import time, tensorflow as tf\n"
        "tf.config.experimental.enable_tensor_float_32_execution(False)\n"
        f"n, k = {size}, {products}; a = tf.random.normal([n, n]) / n**.5\n"
        "@tf.function\n"
        "def multiply(x):\n"
        "    for _ in range(k): x = x @ a\n"
        # Return one number: copying the product from a GPU would time the bus.
        "    return tf.reduce_sum(x)\n"
        "multiply(a).numpy(); rates = []\n"
        "for _ in range(5):\n"
        "    start = time.perf_counter(); multiply(a).numpy()\n"
        "    rates.append(2 * n**3 * k / (time.perf_counter() - start) / 1e9)\n"
        "print(max(rates))\n"
    )
    return float(run([sys.executable, "-c", program], device)["output"])


def main() -> None:
    """Run the contestants in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--deterministic", action="store_true", help="also run with --deterministic, to measure its cost"
    )
    parser.add_argument("--limit", type=int, help="train on only the first LIMIT images, for a quick look")
    parser.add_argument("--output", type=Path, help="save all results as JSON after each run")
    options = parser.parse_args()

    machine: dict[str, Any] = {
        "processor": processor(), "cores": os.cpu_count(), "gpu": gpu(),
        "python": platform.python_version(), "tensorflow": version("tensorflow"), "keras": version("keras"),
        "matrix_product_gflops": matrix_product_rate(options.device),
    }  # fmt: skip
    print(json.dumps(machine, indent=2))
    contestants: dict[str, list[str] | None] = {"listing": None}
    contestants |= {name: ["--precision", name] for name in options.precisions}
    if options.deterministic:
        contestants["float32 deterministic"] = ["--deterministic"]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    failures: dict[str, str] = {}
    for repeat in range(options.repeats):
        for name, extra in contestants.items():
            if name in failures:
                continue
            try:
                done = listing(options) if extra is None else ours(options, repeat, extra)
            except ContestantError as error:
                # Report the failure in the table, and continue with the others.
                failures[name] = str(error)
                print(f"{name}: {error}", flush=True)
            else:
                runs[name].append(done)
                shown = {key: round(value, 4) for key, value in done.items() if value is not None}
                print(name, shown, flush=True)
            if options.output:
                results = {"machine": machine, "runs": runs, "failures": failures}
                options.output.write_text(json.dumps(results, indent=2) + "\n")
    print_table(options, machine, runs, failures)


def print_table(
    options: argparse.Namespace,
    machine: Mapping[str, Any],
    runs: Mapping[str, list[dict[str, Any]]],
    failures: Mapping[str, str],
) -> None:
    """Print the medians, and the ratios to the tutorial's script if it ran."""

    def median(name: str, key: str) -> float:
        values = [done[key] for done in runs[name] if done.get(key) is not None]
        return statistics.median(values) if values else float("nan")

    print(f"\n{options.epochs} epochs on {options.device}, medians of {options.repeats} runs in turn")
    print("| | seconds | listing / this | host MiB | this / listing | GPU MiB | s per epoch | accuracy |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for name, done in runs.items():
        if not done:
            print(f"| {name} | failed: {failures[name].splitlines()[-1]} |")
            continue
        accuracies = ", ".join(f"{each['accuracy']:.2%}" for each in done)
        speed = median("listing", "seconds") / median(name, "seconds")
        memory = median(name, "memory_mib") / median("listing", "memory_mib")
        gpu_mib = median(name, "gpu_memory_mib")
        print(
            f"| {name} | {median(name, 'seconds'):.1f} | {speed:.2f} | {median(name, 'memory_mib'):.0f} "
            f"| {memory:.2f} | {'' if math.isnan(gpu_mib) else f'{gpu_mib:.0f}'} "
            f"| {median(name, 'epoch_seconds'):.2f} | {accuracies} |"
        )
    for name in options.precisions:
        rate = median(name, "images_per_second") * FLOPS_PER_IMAGE / 1e9
        share = rate / machine["matrix_product_gflops"]
        print(f"{name}: {rate:.0f} GFLOP/s in training, {share:.0%} of the device's float32 matrix product")


def processor() -> str:
    """The processor's name, from Linux."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.machine()


def gpu() -> str | None:
    """The GPU's name and driver, or None."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
