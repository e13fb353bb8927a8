"""Check a GPU in one command: speed, exactness and energy of training.

    make gpu-check                                      # on a machine with an NVIDIA GPU
    python benchmarks/gpu_check.py --device cpu --tiny  # the same steps, smaller, on any machine

Each step runs a command in a new process, the most valuable first. Results are saved after each step in
OUTPUT/gpu-check.json; OUTPUT/gpu-check.md is a table for docs/performance.md. If a step fails, its row has
the error, and the others still run. After --minutes, the current step is stopped and no other starts.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class StepError(Exception):
    """A step's command failed; the message is the end of its output."""


class Check:
    """Runs the steps and saves their results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.output: Path = options.output
        self.output.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, Any] = {}
        self.data = ["--data-dir", str(options.data_dir), "--dataset", options.dataset, "--offline"]
        self.small = ["--limit", "320"] if options.tiny else []
        self.epochs = 2 if options.tiny else options.epochs
        self.deadline = time.monotonic() + 60 * options.minutes

    def step(self, name: str, act: Callable[[], Any]) -> None:
        """Run a step, and save its result or its error."""
        if time.monotonic() > self.deadline:
            self.results[name] = {"error": f"not started: the {self.options.minutes:g} minutes were over"}
            self._save()
            return
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        try:
            self.results[name] = act()
        except subprocess.TimeoutExpired:
            self.results[name] = {"error": f"stopped: the {self.options.minutes:g} minutes were over"}
        except (StepError, OSError, ValueError, KeyError) as error:
            self.results[name] = {"error": str(error)}
            print(f"{name} failed: {error}", flush=True)
        self.results[name]["step_seconds"] = round(time.monotonic() - start, 1)
        self._save()

    def _save(self) -> None:
        text = json.dumps(self.results, indent=2) + "\n"
        (self.output / "gpu-check.json").write_text(text, encoding="utf-8")
        (self.output / "gpu-check.md").write_text(format_table(self.results), encoding="utf-8")

    def train(self, name: str, *extra: str, epochs: int | None = None) -> dict[str, Any]:
        """Train `tutorial` in OUTPUT/runs/NAME; returns the speed, accuracy, weights and energy."""
        run = self.output / "runs" / name
        arguments = ["train", *self.data, *self.small, "--device", self.options.device, "--run-dir", str(run)]
        result = self.command(*arguments, "--epochs", str(epochs or self.epochs), "--json", *extra)
        with open(run / "history.csv", encoding="utf-8") as file:
            joules = [float(row["energy_joules"]) for row in csv.DictReader(file) if row["energy_joules"]]
        return {
            **{key: result[key] for key in ("images_per_second", "seconds", "weights_sha256")},
            "compile_seconds": result.get("compile_seconds"),
            "accuracy": result["validation"]["accuracy"],
            "joules": sum(joules) if joules else None,
        }

    def deterministic(self) -> dict[str, Any]:
        """Train twice with --deterministic: are the weights the same, and what does it cost?"""
        first, second = (self.train(f"deterministic-{i}", "--deterministic", epochs=2) for i in (1, 2))
        return {**second, "same_bits": first["weights_sha256"] == second["weights_sha256"]}

    def kernels(self) -> dict[str, Any]:
        """Kernels per step from the profiler, to compare with gpu_program.py."""
        run = self.output / "runs" / "profiled"
        self.train("profiled", "--profile", epochs=1)
        traces = sorted((run / "tensorboard").rglob("*.xplane.pb"))
        if not traces:
            raise StepError("the profiler did not write a trace")
        return dict(json.loads(self.run(str(ROOT / "benchmarks" / "count_kernels.py"), str(traces[-1]))))

    def kill_and_resume(self) -> dict[str, Any]:
        """Kill a run halfway and resume it: are the weights those of an uninterrupted run?"""
        run = self.output / "runs" / "killed"
        arguments = ["train", *self.data, *self.small, "--device", self.options.device, "--deterministic"]
        process = subprocess.Popen(
            [sys.executable, "-m", "cifar_trainer", *arguments, "--epochs", "2", "--run-dir", str(run),
             "--checkpoint-every", "0.2"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not list((run / "checkpoints").glob("step-*[1-9]*")):
            if time.monotonic() > self.deadline:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            raise StepError("the run ended before it could be killed, so this proves nothing")
        resumed = self.command("train", "--resume", str(run), "--json")
        return {"same_bits": resumed["weights_sha256"] == self.results["deterministic"]["weights_sha256"]}

    def listing(self) -> dict[str, Any]:
        """The tutorial's script against `train`, as whole processes."""
        output = self.output / "against_listing.json"
        self.run(
            str(ROOT / "benchmarks" / "against_listing.py"), *self.data[:4], *self.small,
            "--device", self.options.device, "--epochs", str(self.epochs), "--repeats", "1",
            "--precisions", "float32", "--output", str(output),
        )  # fmt: skip
        runs = json.loads(output.read_text(encoding="utf-8"))["runs"]
        theirs, ours = runs["listing"][0], runs["float32"][0]
        return {
            "listing_seconds": theirs["seconds"],
            "seconds": ours["seconds"],
            "times_as_fast": theirs["seconds"] / ours["seconds"],
            "epochs_times_as_fast": theirs["epoch_seconds"] / ours["epoch_seconds"],
        }

    def time_to_94(self) -> dict[str, Any]:
        """Train `fast94` three times in one process; returns mean seconds and accuracy, without compiling."""
        output = self.output / "fast94.json"
        small = ["--runs", "1", "--epochs", "1", "--images", "64", "--batch-size", "32"]
        self.run(
            str(ROOT / "benchmarks" / "time_to_94.py"), *self.data[:4], "--device", self.options.device,
            *(small if self.options.tiny else ["--runs", "3"]), "--output", str(output),
        )  # fmt: skip
        measured = json.loads(output.read_text(encoding="utf-8"))
        runs = measured["runs"]
        return {
            "seconds": sum(run["seconds"] for run in runs) / len(runs),
            "accuracy": sum(run["accuracy"] for run in runs) / len(runs),
            "compile_seconds": measured["compile_seconds"],
        }

    def throughput(self, batch_size: int, *extra: str, flags: str = "") -> dict[str, Any]:
        """Images per second in training at a batch size, with further options and XLA flags."""
        done = self.command(*self._measuring(batch_size), *extra, flags=flags)["training"]
        return {"images_per_second": done["images_per_second"], "watts": done["watts"]}

    def seeds(self, count: int) -> dict[str, Any]:
        """Train `count` seeds of `tutorial` in one program; returns the total images per second."""
        group = self.output / "runs" / f"{count}-seeds"
        printed = self.command(
            "train", *self.data, *self.small, "--device", self.options.device, "--epochs", "2",
            "--run-dir", str(group), "--seeds", str(count), "--stack", "on", "--json",
        )  # fmt: skip
        runs = printed["runs"]
        return {
            # From the second epoch: in the first, chunks are short.
            "images_per_second": sum(_last_rate(Path(run["run_dir"])) for run in runs),
            "seconds": max(run["seconds"] for run in runs),
            "compile_seconds": max(run["compile_seconds"] for run in runs),
            "accuracy": printed["accuracy"]["mean"],
        }

    def side_by_side(self, count: int) -> dict[str, Any]:
        """Total images per second of `count` processes that train on one device at once."""
        with ThreadPoolExecutor(count) as threads:
            done = list(threads.map(lambda _: self.command(*self._measuring(32)), range(count)))
        rates = [printed["training"]["images_per_second"] for printed in done]
        return {"images_per_second": sum(rates)}

    def run(self, *arguments: str, flags: str = "") -> str:
        """The output of a Python program, with `flags` in XLA_FLAGS after the user's own.

        Raises:
            StepError: the exit code is not 0.
            subprocess.TimeoutExpired: the time is over; the program and its children are killed.
        """
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=with_xla_flags(flags), start_new_session=True,
        )  # fmt: skip
        try:
            printed, errors = process.communicate(timeout=max(0.0, self.deadline - time.monotonic()))
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if process.returncode != 0:
            raise StepError(f"exit code {process.returncode}: {errors.strip()[-2000:]}")
        return printed

    def command(self, *arguments: str, flags: str = "") -> dict[str, Any]:
        """What `cifar-trainer ARGUMENTS` prints as JSON; raises as `run`."""
        return dict(json.loads(self.run("-m", "cifar_trainer", "-q", *arguments, flags=flags)))

    def _measuring(self, batch_size: int) -> list[str]:
        seconds = "0.1" if self.options.tiny else "10"
        options = ["--batch-size", str(batch_size), "--device", self.options.device, "--seconds", seconds]
        return ["benchmark", "--train", *options, "--json"]


def _last_rate(run: Path) -> float:
    with open(run / "history.csv", encoding="utf-8") as file:
        return float(list(csv.DictReader(file))[-1]["images_per_second"])


def with_xla_flags(flags: str) -> dict[str, str]:
    """This process's environment, with `flags` after the user's own XLA_FLAGS."""
    current = os.environ.get("XLA_FLAGS", "")
    return {**os.environ, "XLA_FLAGS": f"{current} {flags}".strip()} if flags else dict(os.environ)


def format_table(results: dict[str, Any]) -> str:
    """A Markdown table: one row per step, one column per figure."""
    columns = ("images_per_second", "seconds", "compile_seconds", "accuracy", "joules", "same_bits",
               "times_as_fast", "watts", "kernels_a_step")  # fmt: skip
    lines = ["| step | " + " | ".join(column.replace("_", " ") for column in columns) + " | note |"]
    lines.append("| --- |" + " ---: |" * len(columns) + " --- |")
    for name, result in results.items():
        cells = [format_value(result.get(column)) for column in columns]
        note = str(result.get("error", "")).splitlines()[-1:] or [""]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {note[0]} |")
    return "\n".join(lines) + "\n"


def format_value(value: Any) -> str:
    """A table cell: yes, no, a number with four digits, or empty for None."""
    if value is None:
        return ""
    return "yes" if value is True else "no" if value is False else f"{value:,.4g}"


def main() -> None:
    """Run the steps, in order of importance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--device", default="gpu", choices=("cpu", "gpu"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit")
    parser.add_argument("--tiny", action="store_true", help="two epochs of 320 images, few batch sizes")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"))
    check = Check(parser.parse_args())
    check.step("env", lambda: check.command("env", "--json"))
    check.step("float32", lambda: check.train("float32", "--precision", "float32"))
    first, more = ((2,), ()) if check.options.tiny else ((1, 16), (4, 64))
    for count in first:
        check.step(f"{count} seeds at once", lambda: check.seeds(count))  # noqa: B023
    check.step("bfloat16", lambda: check.train("bfloat16", "--precision", "bfloat16"))
    check.step("fast94", check.time_to_94)
    check.step("deterministic", check.deterministic)
    check.step("kill and resume", check.kill_and_resume)
    # Less valuable: for the time that is left.
    check.step("tf32", lambda: check.train("tf32", "--precision", "tf32"))
    check.step("listing", check.listing)
    check.step("kernels a step", check.kernels)
    for count in more:
        check.step(f"{count} seeds at once", lambda: check.seeds(count))  # noqa: B023
    for count in (2,) if check.options.tiny else (2, 4, 8):
        check.step(f"{count} processes", lambda: check.side_by_side(count))  # noqa: B023
    # Off by default: not measured on a GPU yet.
    for name, buffers in (("no command buffers", ""), ("command buffers with loops", "+WHILE")):
        flags = f"--xla_gpu_enable_command_buffer={buffers}"
        check.step(name, lambda: check.throughput(32, flags=flags))  # noqa: B023
    for conv in ("cudnn", "matmul"):
        check.step(f"convolutions by {conv}", lambda: check.throughput(32, "--conv", conv))  # noqa: B023
    for batch_size in (32, 512) if check.options.tiny else (32, 64, 128, 256, 512, 1024):
        check.step(f"batch {batch_size}", lambda: check.throughput(batch_size))  # noqa: B023
    print((check.output / "gpu-check.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
