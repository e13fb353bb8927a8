"""How well `check data` finds faults that were made in CIFAR-10, and the time and memory that it takes.

    python benchmarks/check_data.py labels --flipped 0.09 --data-dir data
    python benchmarks/check_data.py copies --images 60000 --data-dir data
    python benchmarks/check_data.py whole --data-dir data

`labels` flips a share of the training labels to other classes, at random, and prints the precision and
recall of the suspects. `copies` adds altered copies of training images, and prints how many of each kind are
found. `whole` runs the command on CIFAR-10 as it is, in a temporary folder. Each prints its time, its peak
memory and the machine. `--images` takes a random sample only.
"""

import argparse
import dataclasses
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cifar_trainer import check_data, devices
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.data.store import load_dataset
from cifar_trainer.devices.machine import processor, usable_cores

SEED = 0
#: Copies of each kind.
COPIES = 200
#: The precision at which the recall of the ranking is measured.
PRECISION = 0.7


def jpeg(quality: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Re-encoding with this quality."""

    def encode(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content)

    return encode


def crop(size: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """A square part of this size at a random position, enlarged to the image's size."""

    def cut(image: Image.Image, draw: np.random.Generator) -> Image.Image:
        left, top = draw.integers(0, 33 - size, 2).tolist()
        part = image.crop((left, top, left + size, top + size))
        return part.resize(image.size, Image.Resampling.BILINEAR)

    return cut


def shrink(size: int) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    """Reduction to this size, and enlargement again."""
    return lambda image, draw: image.resize((size, size), Image.Resampling.BILINEAR).resize(
        image.size, Image.Resampling.BILINEAR
    )


#: How the copies are altered.
KINDS: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "unchanged": lambda image, draw: image,
    "JPEG, quality 90": jpeg(90),
    "JPEG, quality 50": jpeg(50),
    "JPEG, quality 20": jpeg(20),
    "mirrored": lambda image, draw: ImageOps.mirror(image),
    "cropped to 28 of 32": crop(28),
    "cropped to 24 of 32": crop(24),
    "mirrored and cropped to 28": lambda image, draw: crop(28)(ImageOps.mirror(image), draw),
    "resized to 24 and back": shrink(24),
    "resized to 16 and back": shrink(16),
    "brighter, factor 1.3": lambda image, draw: image.point(lambda value: min(int(value * 1.3), 255)),
    "darker, factor 0.6": lambda image, draw: image.point(lambda value: int(value * 0.6)),
}


def limited(dataset: Dataset, images: int | None) -> Dataset:
    """A data set with a random sample of each split, in the splits' proportion."""
    if images is None:
        return dataset
    total, draw, parts = len(dataset.train) + len(dataset.test), np.random.default_rng(SEED), {}
    for name in ("train", "test"):
        split = getattr(dataset, name)
        # Prepared images may be sorted by their names: the first ones would be too much alike.
        parts[name] = split.take(np.sort(draw.permutation(len(split))[: images * len(split) // total]))
    return dataclasses.replace(dataset, **parts)


def measure_labels(dataset: Dataset, flipped: float) -> dict[str, Any]:
    """Flip labels, and measure precision and recall of the suspects among the training images."""
    gpu = devices.start().kind == "gpu"
    from cifar_trainer.checks.folds import predict_out_of_sample, settings
    from cifar_trainer.checks.labels import find_suspects

    draw, count, classes = np.random.default_rng(SEED), len(dataset.train), len(dataset.classes)
    wrong = np.zeros(count, bool)
    wrong[draw.permutation(count)[: round(flipped * count)]] = True
    shift = draw.integers(1, classes, count)
    labels = np.where(wrong, (dataset.train.labels + shift) % classes, dataset.train.labels)
    noisy = dataclasses.replace(
        dataset, train=dataclasses.replace(dataset.train, labels=labels.astype(np.uint8))
    )
    predictions = predict_out_of_sample(noisy, settings(noisy), gpu=gpu, on_progress=show_progress)
    suspects = find_suspects(predictions.train, labels.astype(np.int64))
    found = int(wrong[suspects.index].sum())
    confidence = predictions.train[np.arange(count), labels]
    ranked = np.cumsum(wrong[np.argsort(confidence)])
    precise = np.flatnonzero(ranked / np.arange(1, count + 1) >= PRECISION)
    right = (predictions.train.argmax(axis=1) == dataset.train.labels).mean()
    return {
        "images": count,
        "flipped": int(wrong.sum()),
        "accuracy of the networks": round(float(right), 4),
        "suspects": len(suspects),
        "precision": round(found / max(len(suspects), 1), 3),
        "recall": round(found / max(int(wrong.sum()), 1), 3),
        "precision of the first 300": round(float(wrong[suspects.index[:300]].mean()), 3),
        f"recall at precision {PRECISION}": round(
            float(ranked[precise[-1]] / wrong.sum()) if len(precise) and wrong.any() else 0.0, 3
        ),
    }


def measure_copies(dataset: Dataset, epochs: int) -> dict[str, Any]:
    """Add altered copies of training images, and count how many of each kind are found."""
    gpu = devices.start().kind == "gpu"
    from cifar_trainer.checks import neighbours
    from cifar_trainer.checks.folds import predict_out_of_sample, settings
    from cifar_trainer.model import hidden_features

    config = dataclasses.replace(settings(dataset), epochs=epochs)
    model = predict_out_of_sample(dataset, config, gpu=gpu, on_progress=show_progress).model
    draw = np.random.default_rng(SEED)
    each = min(COPIES, len(dataset.train) // len(KINDS))
    sources = draw.permutation(len(dataset.train))[: each * len(KINDS)].reshape(len(KINDS), each)
    copies = [
        np.asarray(alter(Image.fromarray(dataset.train.images[index]), draw).convert("RGB"))
        for alter, indices in zip(KINDS.values(), sources, strict=True)
        for index in indices
    ]
    images = np.concatenate([dataset.train.images, dataset.test.images, np.stack(copies)])
    began = time.monotonic()
    pairs = neighbours.find_pairs(images, hidden_features(model)(images), on_progress=show_progress)
    seconds = time.monotonic() - began
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    first = len(images) - len(copies)
    made = [(int(source), first + i) for i, source in enumerate(sources.ravel())]
    recall = {
        kind: round(sum(pair in found for pair in made[i * each : (i + 1) * each]) / each, 3)
        for i, kind in enumerate(KINDS)
    }
    return {
        "images": len(images),
        "copies of each kind": each,
        "recall": recall,
        "comparison seconds": seconds,
    }


def measure_whole(data_dir: Path) -> dict[str, Any]:
    """The command itself, on CIFAR-10 as it is."""
    with tempfile.TemporaryDirectory() as folder:
        linked = Path(folder) / "cifar10"
        linked.mkdir()
        for path in (data_dir.resolve() / "cifar10").iterdir():
            if path.is_file():
                (linked / path.name).symlink_to(path)
        result = check_data(
            "cifar10", data_dir=folder, on_progress=lambda name, *counts: show_progress(*counts)
        )
    return {**result.to_json(), "findings": [finding.message for finding in result.findings]}


def show_progress(done: int, total: int | None) -> None:
    """Progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r{done} of {total} ", end="", file=sys.stderr)


def main() -> None:
    """Run one stage and print its measurements as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["labels", "copies", "whole"])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, help="number of images of both splits; all by default")
    parser.add_argument("--flipped", type=float, default=0.09, help="share of flipped labels")
    parser.add_argument("--epochs", type=int, default=1, help="epochs per fold for the features of `copies`")
    arguments = parser.parse_args()
    began = time.monotonic()
    if arguments.stage == "whole":
        measured = measure_whole(arguments.data_dir)
    else:
        dataset = limited(load_dataset(arguments.data_dir, "cifar10"), arguments.images)
        measured = (
            measure_labels(dataset, arguments.flipped)
            if arguments.stage == "labels"
            else measure_copies(dataset, arguments.epochs)
        )
    # Kilobytes on Linux, bytes on macOS.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    measured |= {
        "seconds": round(time.monotonic() - began, 1),
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit,
        "machine": f"{processor()}, {usable_cores()} cores",
    }
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
