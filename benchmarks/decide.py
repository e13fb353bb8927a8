"""How often `compare --decide` says "better": without a gain, and with a gain of one point.

    cifar-trainer train --validation holdout --seeds 5 --run-dir runs/first
    cifar-trainer train --validation holdout --seeds 5 --run-dir runs/second --learning-rate 0.002
    python benchmarks/decide.py runs/first runs/second
    python benchmarks/decide.py runs/first

Measures the noise of one recorded group, or of two, on their held-out images, then simulates comparisons
with the same noise. Prints the share of comparisons that say "better", by true gain and number of seeds;
`--output` saves it as JSON.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cifar_trainer.comparison import check_decidable, load_pairs, two_groups
from cifar_trainer.data.splits import HOLDOUT_FRACTION
from cifar_trainer.run import open_runs
from cifar_trainer.significance import Pair, paired_test


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of one seed's difference in accuracy.

    Attributes:
        seeds: standard deviation between seeds, without that of the held-out images.
        discordance: share of images that only one of the two models classifies correctly.
        systematic: share of these images that are the same for all seeds.
        images, pool: numbers of held-out images, and of the images that they were drawn from.
    """

    seeds: float
    discordance: float
    systematic: float
    images: int
    pool: int

    @property
    def deviation(self) -> float:
        """Standard deviation of one seed's difference."""
        return float((self.seeds**2 + self.discordance / self.images) ** 0.5)


def measure(pairs: Sequence[Pair], pool: int) -> Noise:
    """Measure the noise of two recorded groups by the method of moments."""
    differences = np.array([pair.gains.mean() for pair in pairs])
    images = min(len(pair.indices) for pair in pairs)
    discordance = float(np.mean([np.mean(pair.gains != 0) for pair in pairs]))
    centred = [(pair.indices, pair.gains - differences.mean()) for pair in pairs]
    products = np.concatenate([one * other for one, other in _shared(centred)])
    systematic = float(np.clip(products.mean() / discordance, 0, 1))
    variance = max(float(differences.var(ddof=1)) - discordance / images, 0.0)
    return Noise(variance**0.5, discordance, systematic, images, pool)


def measure_alone(runs: Sequence[tuple[np.ndarray, np.ndarray]], pool: int) -> Noise:
    """Measure the noise between a recipe and itself, from one recorded group.

    Args:
        runs: the held-out images' indices, int64 [N], and whether each was classified correctly, bool [N].
        pool: number of images that the held-out ones were drawn from.
    """
    accuracies = np.array([correct.mean() for _, correct in runs])
    images, mean = min(len(indices) for indices, _ in runs), accuracies.mean()
    discordance = float(np.concatenate([one != other for one, other in _shared(runs)]).mean())
    variance = max(float(accuracies.var(ddof=1) - mean * (1 - mean) / images), 0.0)
    return Noise((2 * variance) ** 0.5, discordance, 0.0, images, pool)


def _shared(values: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The values of each two seeds, for the images that both held out."""
    for (one, ours), (other, theirs) in itertools.combinations(values, 2):
        _, i, j = np.intersect1d(one, other, return_indices=True)
        yield ours[i], theirs[j]


def simulate(noise: Noise, gain: float, seeds: int, comparisons: int, seed: int = 0) -> float:
    """Share of simulated comparisons that say "better".

    Some images are classified correctly by only one of the recipes whatever the seed, others by one of two
    models, and the seeds' models differ in accuracy. Each seed holds out other images of the same pool.

    Args:
        noise: measured on recorded runs.
        gain: true gain of the second recipe, as a fraction.
        seeds: seeds of each recipe.
        comparisons: number of comparisons.
        seed: of the simulation.
    """
    random = np.random.default_rng(seed)

    def gains(shape: int, share: float, mean: float) -> np.ndarray:
        """-1, 0 or 1 for each image, not 0 with probability `share`: int8 [shape]."""
        drawn = random.random(shape)
        return (drawn < (share + mean) / 2).astype(np.int8) - (drawn > 1 - (share - mean) / 2)

    better = 0
    for _ in range(comparisons):
        common = gains(noise.pool, noise.systematic * noise.discordance, noise.systematic * gain)
        pairs = []
        for _ in range(seeds):
            indices = random.choice(noise.pool, noise.images, replace=False, shuffle=False)
            own = gains(
                noise.images,
                (1 - noise.systematic) * noise.discordance,
                (1 - noise.systematic) * gain + noise.seeds * random.standard_normal(),
            )
            total = np.where(common[indices] != 0, common[indices], own)
            pairs.append(Pair(indices, total < 0, total > 0))
        better += paired_test(pairs).is_better
    return better / comparisons


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, help="the folders of one or two groups of runs")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--comparisons", type=int, default=2000)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    if len(options.runs) == 1:
        first = second = open_runs(options.runs[0])
    else:
        first, second = two_groups(options.runs)
    check_decidable(first, second)
    _, _, pairs = load_pairs(first, second, options.data_dir, lambda run: print(f"evaluating {run}"))
    pool = HOLDOUT_FRACTION * len(pairs[0].indices)
    if first is second:
        noise = measure_alone([(pair.indices, pair.first_correct) for pair in pairs], pool)
    else:
        noise = measure(pairs, pool)
    result = {"noise": dataclasses.asdict(noise), "comparisons": options.comparisons, "better": {}}
    print(f"{noise}\nstandard deviation of a difference: {100 * noise.deviation:.2f} points")
    print("| seeds | no gain | 0.5 points | 1 point | 2 points |\n| ---: | ---: | ---: | ---: | ---: |")
    for seeds in (3, 5, 10):
        shares = [simulate(noise, gain, seeds, options.comparisons) for gain in (0, 0.005, 0.01, 0.02)]
        result["better"][seeds] = shares
        print(f"| {seeds} | " + " | ".join(f"{share:.1%}" for share in shares) + " |", flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
