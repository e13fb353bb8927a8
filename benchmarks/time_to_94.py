"""Time to accuracy of `fast94`: complete trainings in one process, compiled once before the clock starts.

    python benchmarks/time_to_94.py --runs 25      # with an NVIDIA GPU, and CIFAR-10 in data/

As in airbench94, the time of a run includes the whitening layer, every training step, and the
classification of the test images in six views. It excludes TensorFlow's start, tracing and compiling,
and copying the images to the device. Runs differ in initial weights and order; augmentation draws the
same numbers in each run, but for other images.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Train, and print each run and a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--recipe", default="fast94")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="gpu", choices=("cpu", "gpu"))
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--images", type=int, help="size of the training and the test set; default: all")
    parser.add_argument("--output", type=Path, help="save the results as JSON after each run")
    options = parser.parse_args()

    from cifar_trainer import devices
    from cifar_trainer.data.store import load_dataset
    from cifar_trainer.recipes import get_recipe
    from cifar_trainer.settings import Settings

    recipe = get_recipe(options.recipe)
    config = Settings(
        recipe.name,
        options.dataset,
        options.epochs or recipe.epochs,
        options.batch_size or recipe.batch_size,
        recipe.learning_rate,
        precision=options.precision,
        device=options.device,
    )
    device = devices.start(config, split=recipe.splittable)
    dataset = load_dataset(options.data_dir, options.dataset)
    indices = np.arange(options.images or len(dataset.train))
    from cifar_trainer.model import LogitsFunction
    from cifar_trainer.training.assembly import assemble

    loop = assemble(
        config, recipe, dataset.train, indices, classes=len(dataset.classes), gpu=device.kind == "gpu"
    )
    test, labels = (array[: options.images] for array in (dataset.test.images, dataset.test.labels))
    predictor = LogitsFunction(loop.model, recipe.predict)
    start = time.perf_counter()
    loop.compile()
    predictor(test)
    compiled = time.perf_counter() - start
    about = {
        "device": device.description, "recipe": recipe.name, "precision": config.precision,
        "epochs": config.epochs, "batch_size": config.batch_size, "compile_seconds": compiled,
    }  # fmt: skip
    print(json.dumps(about))
    runs: list[dict[str, Any]] = []
    for seed in range(options.runs):
        runs.append(run(loop, recipe, predictor, dataset.train.images[indices], test, labels, config, seed))
        print(json.dumps(runs[-1]), flush=True)
        if options.output:
            options.output.write_text(json.dumps({**about, "runs": runs}, indent=2) + "\n")
    for name in ("accuracy", "seconds"):
        values = [each[name] for each in runs]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        mean = statistics.fmean(values)
        print(f"{name}: mean {mean:.4f}, standard deviation {deviation:.4f}, n {len(values)}")


def run(
    loop: Any,
    recipe: Any,
    predictor: Any,
    images: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
    config: Any,
    seed: int,
) -> dict[str, Any]:
    """Train once from new weights; returns seed, seconds and accuracy."""
    import keras

    from cifar_trainer.training.assembly import build_model
    from cifar_trainer.training.loop import MAX_CHUNK, epoch_order

    keras.utils.set_random_seed(seed)
    fresh = build_model(recipe, config.precision, images.shape[1:], loop.model.output_shape[-1])
    loop.model.set_weights(fresh.get_weights())
    for variable in loop.optimizer.variables:
        if "learning_rate" not in variable.path:
            variable.assign(np.zeros(variable.shape, variable.dtype))
    start = time.perf_counter()
    if recipe.initialize is not None:
        recipe.initialize(loop.model, images)
    for epoch in range(config.epochs):
        loop.set_order(epoch_order(seed, epoch, loop.count))
        for step in range(0, loop.steps, MAX_CHUNK):
            loop.run(step, min(MAX_CHUNK, loop.steps - step), epoch * loop.steps + step)
    logits = predictor(test)
    seconds = time.perf_counter() - start
    accuracy = float((logits.argmax(axis=1) == labels).mean())
    return {"seed": seed, "seconds": seconds, "accuracy": accuracy}


if __name__ == "__main__":
    main()
