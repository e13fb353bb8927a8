"""Is a run that starts from trained weights better than one from scratch, with 200 images of new classes?

    cifar-trainer prepare --data-dir data
    python benchmarks/transfer.py --data-dir data --output transfer.json

Splits CIFAR-10: a parent is trained on the first seven classes, then each seed is trained twice on 200 images
of the last three, from scratch and from the parent's weights, with the same settings. Compares the two on all
test images of the three classes, by McNemar's test for each seed, and by the accuracies over the seeds.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import cifar_trainer
from cifar_trainer.data.dataset import Dataset, ImageSet, Split
from cifar_trainer.data.store import load_dataset, write_dataset
from cifar_trainer.training.api import mean_accuracy

#: The parent's classes; the others are the children's.
PARENT_CLASSES = 7


def write_classes(dataset: Dataset, classes: range, folder: Path, name: str) -> None:
    """Write a data set of some of the classes, with new labels from 0."""
    splits = {}
    for split_name, split in (("train", dataset.train), ("test", dataset.test)):
        kept = np.flatnonzero(np.isin(split.labels, classes))
        splits[split_name] = Split(split.images[kept], (split.labels[kept] - classes.start).astype(np.uint8))
    names = tuple(dataset.classes[label] for label in classes)
    write_dataset(folder / name, name, ImageSet(names, splits), f"classes of {dataset.name}")


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train the parent and the children in `work`; returns the figures."""
    dataset = load_dataset(Path(options.data_dir), "cifar10")
    count = len(dataset.classes)
    write_classes(dataset, range(PARENT_CLASSES), work, "parent")
    write_classes(dataset, range(PARENT_CLASSES, count), work, "child")
    common = {"data_dir": work, "recipe": options.recipe, "device": options.device}
    parent = cifar_trainer.train(
        **common, dataset="parent", epochs=options.parent_epochs, limit=options.parent_limit,
        validation="holdout", run_dir=work / "runs" / "parent",
    )  # fmt: skip
    child = {
        **common, "dataset": "child", "limit": options.images, "epochs": options.epochs,
        "validation": "train", "seeds": options.seeds,
    }  # fmt: skip
    transfer = {"weights": parent.run_dir, "freeze": "all-but-head", "unfreeze_after": options.epochs // 2}
    groups = {
        "scratch": cifar_trainer.train(**child, run_dir=work / "runs" / "scratch"),
        "transfer": cifar_trainer.train(**child, **transfer, run_dir=work / "runs" / "transfer"),
    }
    seeds = zip(*(group.runs for group in groups.values()), strict=True)
    compared = [
        cifar_trainer.compare([run.run_dir for run in pair], split="test").to_json() for pair in seeds
    ]
    return {
        "parent": {"epochs": parent.epochs, "held_out_accuracy": parent.validation["accuracy"]},
        "images": options.images,
        "test_images": compared[0]["images"],
        **{
            name: dataclasses.asdict(mean_accuracy([each["runs"][i]["accuracy"] for each in compared]))
            for i, name in enumerate(groups)
        },
        "mcnemar": [each["mcnemar"][0] for each in compared],
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--recipe", default="regularized")
    parser.add_argument("--parent-epochs", type=int, default=3)
    parser.add_argument("--parent-limit", type=int, help="images of the parent; all by default")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(options, Path(folder))
    for name, title in (("scratch", "from scratch"), ("transfer", "from the parent's weights")):
        low, high = figures[name]["interval"]
        print(f"{title:25} {figures[name]['mean']:.2%} (95 % interval of the mean {low:.2%} to {high:.2%})")
    for test in figures["mcnemar"]:
        first, second, p_value = (test[name] for name in ("only_first", "only_second", "p_value"))
        print(
            f"correct only from scratch: {first:,}, only from the parent's weights: {second:,}, "
            f"p = {p_value:.1e}"
        )
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
