"""The article's listing as a script against `cifar-trainer train`: time, memory, accuracy.

    python benchmarks/against_listing.py --data-dir data --epochs 10 --repeats 3
    python benchmarks/against_listing.py --device gpu --deterministic

Whole processes from start to exit, the contestants in turn, so that a machine that slows
down slows down for all of them. Prints the machine, the versions, each run, and the ratios
of the medians to the listing; `--output` keeps them as JSON.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: Multiplications and additions of training on one image with the article's network: forward, and
#: twice as much backward, but for the first layer, which needs no gradient of its input.
_FORWARD_MACS = (30 * 30 * 32 * 27, 13 * 13 * 64 * 288, 4 * 4 * 64 * 576, 1024 * 64, 64 * 10)
FLOPS_PER_IMAGE = 2 * (3 * sum(_FORWARD_MACS) - _FORWARD_MACS[0])

ROOT = Path(__file__).resolve().parent.parent


def run(command: list[str]) -> dict[str, float | str]:
    """Run a command; its wall time in s, its peak memory in MiB (ru_maxrss), and its output."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True)
        errors = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with {process.returncode}:\n{errors[-3000:]}")
    return {"seconds": seconds, "memory_mib": usage.ru_maxrss / 1024, "output": text}


def listing(options: argparse.Namespace) -> dict[str, float]:
    """One run of the listing, in a process of its own."""
    command = [sys.executable, str(ROOT / "examples" / "listing.py"), "--data-dir", str(options.data_dir)]
    command += ["--dataset", options.dataset, "--epochs", str(options.epochs)]
    done = run(command)
    accuracy = re.search(r"test accuracy: ([\d.]+)", str(done["output"]))
    # Keras prints "1563/1563 - 18s - 12ms/step - ..." after each epoch.
    epochs = [float(s) for s in re.findall(r"^\d+/\d+ - ([\d.]+)s - ", str(done["output"]), re.MULTILINE)]
    return {
        "seconds": float(done["seconds"]),
        "memory_mib": float(done["memory_mib"]),
        "accuracy": float(accuracy[1]) if accuracy else float("nan"),
        "epoch_seconds": statistics.median(epochs[: options.epochs]),
    }


def ours(options: argparse.Namespace, seed: int, extra: list[str]) -> dict[str, float]:
    """One run of `cifar-trainer train`, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cifar_trainer", "train", "--json", "--quiet", "--offline"]
        command += ["--data-dir", str(options.data_dir), "--dataset", options.dataset]
        command += ["--epochs", str(options.epochs), "--seed", str(seed), "--run-dir", f"{folder}/run"]
        done = run([*command, "--device", options.device, *extra])
    result = json.loads(str(done["output"]))
    return {
        "seconds": float(done["seconds"]),
        "memory_mib": float(done["memory_mib"]),
        "accuracy": result["validation"]["accuracy"],
        "epoch_seconds": result["seconds"] / result["epochs"],
        "images_per_second": result["images_per_second"],
    }


def matrix_product_rate() -> float:
    """The machine's float32 matrix-product rate in TensorFlow, in GFLOP/s: the best of five."""
    program = (
        "import os; os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'\n"
        "import time, tensorflow as tf\n"
        "n = 2048; a = tf.random.normal([n, n]); multiply = tf.function(tf.matmul)\n"
        "multiply(a, a); rates = []\n"
        "for _ in range(5):\n"
        "    began = time.perf_counter(); multiply(a, a).numpy()\n"
        "    rates.append(2 * n**3 / (time.perf_counter() - began) / 1e9)\n"
        "print(max(rates))\n"
    )
    return float(str(run([sys.executable, "-c", program])["output"]))


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
        "--deterministic", action="store_true", help="also with --deterministic, to see its cost"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    machine: dict[str, Any] = {
        "processor": processor(), "cores": os.cpu_count(), "gpu": gpu(),
        "python": platform.python_version(), "tensorflow": version("tensorflow"), "keras": version("keras"),
        "matrix_product_gflops": matrix_product_rate(),
    }  # fmt: skip
    print(json.dumps(machine, indent=2))
    contestants: dict[str, list[str] | None] = {"listing": None}
    contestants |= {name: ["--precision", name] for name in options.precisions}
    if options.deterministic:
        contestants["float32 deterministic"] = ["--deterministic"]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for repeat in range(options.repeats):
        for name, extra in contestants.items():
            done = listing(options) if extra is None else ours(options, repeat, extra)
            runs[name].append(done)
            print(name, {key: round(value, 4) for key, value in done.items()}, flush=True)

    def median(name: str, key: str) -> float:
        return statistics.median(done[key] for done in runs[name])

    print(f"\n{options.epochs} epochs, medians of {options.repeats} runs in turn")
    print("| | seconds | listing / this | peak MiB | this / listing | s an epoch | accuracy |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for name in contestants:
        accuracies = ", ".join(f"{done['accuracy']:.2%}" for done in runs[name])
        speed = median("listing", "seconds") / median(name, "seconds")
        memory = median(name, "memory_mib") / median("listing", "memory_mib")
        print(
            f"| {name} | {median(name, 'seconds'):.1f} | {speed:.2f} | {median(name, 'memory_mib'):.0f} "
            f"| {memory:.2f} | {median(name, 'epoch_seconds'):.1f} | {accuracies} |"
        )
    for name in options.precisions:
        rate = median(name, "images_per_second") * FLOPS_PER_IMAGE / 1e9
        share = rate / machine["matrix_product_gflops"]
        print(f"{name}: {rate:.0f} GFLOP/s in training, {share:.0%} of the machine's float32 matrix product")
    if options.output:
        options.output.write_text(json.dumps({"machine": machine, "runs": runs}, indent=2) + "\n")


def processor() -> str:
    """The processor's name, as Linux gives it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def gpu() -> str | None:
    """The GPU's name and driver, or None."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


if __name__ == "__main__":
    main()
