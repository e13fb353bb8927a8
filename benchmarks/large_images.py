"""Memory and speed of training on large photos, compared with Keras's `fit` on the same data.

    python benchmarks/large_images.py --data-dir /tmp/large --seconds 30 --repeats 3
    python benchmarks/large_images.py --data-dir /tmp/large --only cifar-trainer --seconds 20

It draws and prepares 10,000 images of 224×224 pixels once (1.5 GB on disk), which takes about a minute. Each
contestant then trains the recipe's network on them in its own process, and they take turns. `fit` reads
batches from the same memory-mapped file with `keras.utils.PyDataset`, in a new order, and augments nothing;
cifar-trainer also flips and crops. The clock starts after a warm-up. The peak is of the resident memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "large-photos"
CONTESTANTS = ("cifar-trainer", "keras")
#: Steps before the clock starts.
WARM_UP = 5


def draw(data_dir: Path, images: int, size: int) -> None:
    """Prepare ten classes of noise, a tenth of it as test images, unless that has been done."""
    import numpy as np

    from cifar_trainer.data import store
    from cifar_trainer.data.dataset import ImageSet, Split

    if (data_dir / NAME / store.RECORD_NAME).exists():
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    splits = {
        split: Split(
            generator.integers(0, 256, (count, size, size, 3), np.uint8),
            np.arange(count, dtype=np.uint8) % 10,
        )
        for split, count in (("train", images), ("test", images // 10))
    }
    store.write_dataset(data_dir / NAME, NAME, ImageSet(tuple("abcdefghij"), splits), "noise")


class Clock:
    """Counts images from the end of the warm-up for `seconds`."""

    def __init__(self, batch_size: int, seconds: float) -> None:
        self._batch_size, self._seconds = batch_size, seconds
        self._steps, self._warm, self._start = 0, 0, 0.0
        self.rate = 0.0

    def step(self, steps: int = 1) -> bool:
        """Count steps; True once the time is up."""
        self._steps += steps
        # The first call may have more steps than the warm-up.
        if self._warm == 0 or self._steps <= WARM_UP:
            self._start, self._warm = time.perf_counter(), self._steps
            return False
        seconds = time.perf_counter() - self._start
        self.rate = (self._steps - self._warm) * self._batch_size / seconds
        return seconds >= self._seconds


def train_ours(data_dir: Path, recipe: str, batch_size: int, clock: Clock) -> None:
    """`cifar_trainer.train`, stopped when the time is up."""
    import tempfile

    import keras

    import cifar_trainer
    from cifar_trainer.errors import TrainingStopped

    class Counter(keras.callbacks.Callback):  # type: ignore[misc]
        over = False
        done = 0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.over = clock.step(batch + 1 - self.done)
            self.done = batch + 1

    counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            cifar_trainer.train(
                recipe=recipe, dataset=NAME, data_dir=data_dir, run_dir=Path(folder) / "run", epochs=1,
                batch_size=batch_size, device="cpu", callbacks=[counter],
                should_stop=lambda: counter.over,
            )  # fmt: skip
        except TrainingStopped:
            return


def train_keras(data_dir: Path, recipe: str, batch_size: int, clock: Clock) -> None:
    """`keras.Model.fit` on the memory-mapped file."""
    import keras
    import numpy as np

    from cifar_trainer.recipes import RECIPES

    images, labels = (
        np.load(data_dir / NAME / f"train_{each}.npy", mmap_mode="r") for each in ("images", "labels")
    )

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        order = np.random.default_rng(0).permutation(len(labels))

        def __len__(self) -> int:
            return len(labels) // batch_size

        def __getitem__(self, index: int) -> Any:
            chosen = self.order[index * batch_size : (index + 1) * batch_size]
            return images[chosen], labels[chosen]

    class Counter(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if clock.step():
                raise KeyboardInterrupt

    chosen = RECIPES[recipe]
    model = chosen.build_model(images.shape[1:], 10)
    model.compile(chosen.build_optimizer(chosen.learning_rate, len(labels) // batch_size), chosen.loss())
    try:
        model.fit(Batches(workers=1), epochs=1, verbose=0, callbacks=[Counter()])
    except KeyboardInterrupt:
        return


TRAIN: dict[str, Callable[[Path, str, int, Clock], None]] = dict(
    zip(CONTESTANTS, (train_ours, train_keras), strict=True)
)


def main() -> None:
    """Measure the contestants in turn, or one in this process (--child)."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--recipe", default="mobilenet-v3-small")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=CONTESTANTS)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        clock = Clock(options.batch_size, options.seconds)
        TRAIN[options.child](options.data_dir, options.recipe, options.batch_size, clock)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"images_per_second": clock.rate, "peak_bytes": peak}))
        return
    subprocess.run(
        [sys.executable, "-c",
         "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import large_images; "
         "large_images.draw(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))",
         Path(__file__).parent, options.data_dir, str(options.images), str(options.size)],
        check=True,
    )  # fmt: skip
    rows: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.repeats):
        for name in [options.only] if options.only else CONTESTANTS:
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--child", name], stdout=subprocess.PIPE, check=True
            )
            rows.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
    for name, measured in rows.items():
        rates = [each["images_per_second"] for each in measured]
        print(
            f"{name:14} {statistics.median(rates):8.1f} images/s ({min(rates):.1f} to {max(rates):.1f}), "
            f"peak {max(each['peak_bytes'] for each in measured) / 1e9:.2f} GB"
        )
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
