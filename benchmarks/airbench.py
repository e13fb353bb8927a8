"""Train once with airbench94_muon.py of github.com/KellerJordan/cifar10-airbench, on a CPU.

    VENV/bin/python benchmarks/airbench.py cifar10-airbench --data-dir data --precision bfloat16

Needs PyTorch and torchvision, a clone of that repository, and prepared images. Differences to the script: the
device; float32, or bfloat16 by autocast with weights in float32; no torch.compile; no run for warm-up; and no
evaluation before the end. Prints the accuracy of six views on the test set.
"""

import argparse
import contextlib
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch


class Event:
    """Stands in for torch.cuda.Event: a time on this process's clock."""

    def __init__(self, **_: object) -> None:
        self.seconds = 0.0

    def record(self) -> None:
        """Set the time to now."""
        self.seconds = time.perf_counter()

    def elapsed_time(self, other: "Event") -> float:
        """Milliseconds from this event to another."""
        return 1e3 * (other.seconds - self.seconds)


def load(folder: Path, precision: str) -> types.ModuleType:
    """The script as a module, for a CPU."""
    path = folder / "airbench94_muon.py"
    source = path.read_text(encoding="utf-8").replace('"cuda"', '"cpu"').replace(".half()", ".float()")
    module = types.ModuleType("airbench94_muon")
    exec(compile(source, str(path), "exec"), module.__dict__)
    evaluate = module.evaluate
    module.evaluate = lambda *arguments, tta_level: (
        evaluate(*arguments, tta_level=tta_level) if tta_level else float("nan")
    )
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    module.CifarNet.forward = autocast(module.CifarNet.forward)
    return module


def main() -> None:
    """Train, and print the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="the clone")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="train on only the first LIMIT images, at least 2,000")
    options = parser.parse_args()

    # Compiled, it was no faster: 378 instead of 375 images/s (n = 1, with autocast around the optimizer too).
    torch.compiler.set_stance("force_eager")
    torch.cuda.Event, torch.cuda.synchronize = Event, lambda: None
    torch.manual_seed(options.seed)
    module = load(options.folder, options.precision)
    data = (options.data_dir / options.dataset).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("cifar10").mkdir()
        for part in ("train", "test"):
            limit = options.limit if part == "train" else None
            images, labels = (np.load(data / f"{part}_{name}.npy")[:limit] for name in ("images", "labels"))
            saved = {"images": torch.tensor(images), "labels": torch.tensor(labels).long(), "classes": None}
            torch.save(saved, f"cifar10/{part}.pt")
        model = module.CifarNet().to(memory_format=torch.channels_last)
        accuracy = module.main(options.seed, model)
    print(f"test accuracy: {accuracy:.4f}")


if __name__ == "__main__":
    main()
