"""Check every built-in recipe with `check training` on CIFAR-10: none may be accused.

    python benchmarks/check_training.py --data-dir data [RECIPE...]

Prints the failed checks and the CPU time of each recipe, and exits with 1 if any check failed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cifar_trainer
from cifar_trainer.recipes import RECIPES


def main() -> int:
    """Check the recipes; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", default="data")
    options = parser.parse_args()
    passed = True
    for name in options.recipes:
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            result = cifar_trainer.check_training(
                name, dataset=options.dataset, data_dir=options.data_dir, output=Path(folder) / "page.html"
            )
        passed &= result.passed
        print(f"{name}: {time.process_time() - began:.0f} s of CPU, {len(result.checks)} checks", flush=True)
        for check in result.checks:
            if not check.passed:
                print(f"  {check.name}: {check.message}", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
