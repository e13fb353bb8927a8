"""Kill training at random moments, resume it, and compare the result with an uninterrupted run.

    python benchmarks/kill_and_resume.py --kills 200
    python benchmarks/kill_and_resume.py --kills 20 -- --schedule cosine --ema 0.9

Starts a run, kills it (SIGKILL) at a random moment, and resumes it, until it ends; then starts
another run, until there are enough kills. Each finished run must have the same weights as the
uninterrupted one, and the same rows in its history and event files, except for times. Prints
one JSON object; exits 1 if anything differs.

TensorFlow is imported once, and each run is a fork, because an import takes longer than a run.
All work of a run happens after the fork.
"""

import argparse
import csv
import json
import os
import platform
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

#: Columns of the history with times or device readings.
TIMES = {
    "images_per_second", "seconds", "compile_seconds", "gpu_utilization", "gpu_memory_mib", "power_watts",
    "energy_joules",
}  # fmt: skip
#: Figures that are skipped if drawing takes too long, except in the last epoch.
DRAWN_IN_TIME = {"figures/confusion_matrix", "figures/most_confident_errors"}


def start(arguments: list[str], log: Path) -> int:
    """Fork a process that runs the command line; returns its PID."""
    child = os.fork()
    if child:
        return child
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 70
    try:
        from cifar_trainer.cli import main

        main(arguments, prog_name="cifar-trainer")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float | None) -> int | None:
    """The exit code of `child`, or None if it was killed after `seconds`."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            return None if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) < 0 else 0
        time.sleep(0.002)


def outcome(run: Path) -> dict[str, object]:
    """The results that must be equal: weights, and history and events without times."""
    with open(run / "history.csv", newline="") as file:
        history = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
    events = {split: scalars(run / "tensorboard" / split) for split in ("train", "validation")}
    weights = json.loads((run / "result.json").read_text())["weights_sha256"]
    return {"weights": weights, "history": history, "events": events}


def scalars(folder: Path) -> list[tuple[str, int, float | None]]:
    """(tag, step, value) of all events in the order of writing, without the values of times.

    Parses the records itself, because TensorFlow's reader would start threads before a fork.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    from cifar_trainer.training.history import METRICS

    scores = {metric.tag for metric in METRICS if metric.name not in TIMES}
    events = []
    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        content, at = path.read_bytes(), 0
        while at + 12 <= len(content):
            # A record: length, checksum, content, checksum.
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.tag in DRAWN_IN_TIME:
                    continue
                score = float(make_ndarray(value.tensor)) if value.tag in scores else None
                events.append((value.tag, event.step, score))
    return events


def main() -> int:
    """Run the test and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=None, help="seed of the moments; default: random, and printed"
    )
    parser.add_argument("--dataset", default="synthetic")
    parser.add_argument("--data-dir", type=Path, default=None, help="default: prepare in a temporary folder")
    parser.add_argument("--recipe", default="regularized")
    parser.add_argument("settings", nargs="*", help="further options of train, after --")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"random moments from --seed {seed}", file=sys.stderr)
    moments = random.Random(seed)

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        log = scratch / "log"
        data_dir = options.data_dir or scratch / "data"
        if options.data_dir is None:
            prepare = ["prepare", "--dataset", options.dataset, "--data-dir", str(data_dir), "--quiet"]
            if wait(start(prepare, log), None) != 0:
                print(log.read_text(), file=sys.stderr)
                return 1
        preload()
        common = ["train", "--data-dir", str(data_dir), "--checkpoint-every", "0.05", "--quiet"]
        settings = [
            "--dataset", options.dataset, "--recipe", options.recipe, "--epochs", "6", "--limit", "100",
            "--batch-size", "8", "--offline", *options.settings,
        ]  # fmt: skip
        uninterrupted = scratch / "uninterrupted"
        began = time.monotonic()
        if wait(start([*common, *settings, "--run-dir", str(uninterrupted)], log), None) != 0:
            print(log.read_text(), file=sys.stderr)
            return 1
        duration = time.monotonic() - began
        expected = outcome(uninterrupted)
        kills, runs, different = 0, 0, []
        while kills < options.kills:
            run = scratch / "killed"
            code: int | None = None
            while code is None:
                started = (run / "config.json").exists()
                target = ["--resume", str(run)] if started else [*settings, "--run-dir", str(run)]
                if run.exists() and not started:
                    shutil.rmtree(run)
                moment = moments.uniform(0, duration) if kills < options.kills else None
                code = wait(start([*common, *target], log), moment)
                kills += code is None
            runs += 1
            if code != 0 or outcome(run) != expected:
                different.append(runs)
                print(log.read_text()[-3000:], file=sys.stderr)
            shutil.rmtree(run)
            print(f"{kills} kills, {runs} runs finished, {len(different)} different", file=sys.stderr)
    result = {
        "kills": kills, "runs": runs, "different": len(different), "seed": seed,
        "uninterrupted_seconds": round(duration, 2), "weights_sha256": expected["weights"],
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "tensorflow": version("tensorflow"), "python": platform.python_version(),
    }  # fmt: skip
    print(json.dumps(result))
    return 1 if different else 0


def preload() -> None:
    """Import everything that a run needs, without starting TensorFlow's threads."""
    from cifar_trainer import devices

    devices.load_tensorflow()
    import cifar_trainer.training.api  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
