"""`compare --decide`: which groups can be decided between, what counts as a look, and how it answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from command_line import load_script, run_here
from scipy.stats import t, ttest_rel

from cifar_trainer import comparison
from cifar_trainer.comparison import check_decidable, count_trials, two_groups
from cifar_trainer.data.splits import holdout
from cifar_trainer.errors import UsageError
from cifar_trainer.files import write_json
from cifar_trainer.run import Run
from cifar_trainer.significance import Pair, paired_test

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "decide.py"


def pair(first: float, second: float, start: int = 0, images: int = 100) -> Pair:
    """Models that are right on the first share of the images; those at `start` and on are held out."""
    place = np.arange(images) / images
    return Pair(np.arange(start, start + images), place < first, place < second)


def test_with_different_images_for_each_seed_it_is_the_paired_t_test_of_the_accuracies() -> None:
    first, second = [0.50, 0.60, 0.55, 0.52], [0.80, 0.95, 0.70, 0.92]
    found = paired_test([pair(a, b, 100 * i) for i, (a, b) in enumerate(zip(first, second, strict=True))])
    expected = ttest_rel(second, first, alternative="greater")
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(ttest_rel(second, first).confidence_interval(0.9)))
    assert found.is_better


def test_images_that_several_seeds_hold_out_count_once() -> None:
    """Three seeds that hold out the same images and answer alike say no more than one."""
    apart = paired_test([pair(0.5, 0.6, 100 * i) for i in range(3)])
    same = paired_test([pair(0.5, 0.6) for _ in range(3)])
    # The variance of the mean is that of one seed's images, on top of a third of it.
    assert np.diff(same.interval) == pytest.approx(np.diff(apart.interval) * 2)


def test_seeds_that_agree_by_accident_are_not_more_precise_than_their_images() -> None:
    found = paired_test([pair(0.5, 0.6, 100 * i) for i in range(2)])
    error = (0.1 * 0.9 / 100 / 2) ** 0.5
    assert found.interval[0] == pytest.approx(0.1 - t.isf(0.05, 1) * error)


def test_models_that_never_differ_are_not_better() -> None:
    found = paired_test([pair(0.5, 0.5, 100 * i) for i in range(5)])
    assert (found.difference, found.is_better, found.p_value) == (0, False, 0.5)


def test_looks_divide_the_level() -> None:
    pairs = [pair(0.5, 0.6 + i / 100, 100 * i) for i in range(5)]
    once, often = paired_test(pairs), paired_test(pairs, 20)
    assert often.p_value == pytest.approx(20 * once.p_value)
    assert often.confidence == pytest.approx(1 - 2 * 0.05 / 20)
    assert often.interval[0] < once.interval[0]
    assert often.minimum_detectable > once.minimum_detectable


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    return load_script(BENCHMARK)


#: Five seeds of `tutorial --schedule cosine --epochs 4` (docs/check.md). Their accuracies differ by no more
#: than their held-out images explain.
MEASURED = {"seeds": 0.0, "discordance": 0.146, "systematic": 0.0, "images": 5000, "pool": 50_000}


def test_a_recipe_is_seldom_better_than_itself_and_five_seeds_find_one_point(simulation: ModuleType) -> None:
    """In 200 comparisons of each kind, with the noise of real runs."""
    noise = simulation.Noise(**MEASURED)
    assert simulation.simulate(noise, 0.0, 5, 200) <= 0.05
    assert simulation.simulate(noise, 0.01, 5, 200) >= 0.8


def test_the_benchmark_measures_the_noise_that_it_simulates(simulation: ModuleType) -> None:
    random = np.random.default_rng(0)
    pairs = []
    for _ in range(40):
        drawn = random.random(5000) + 0.004 * random.standard_normal()
        pairs.append(Pair(random.choice(50_000, 5000, replace=False), drawn < 0.1, drawn > 0.9))
    found = simulation.measure(pairs, 50_000)
    assert found.discordance == pytest.approx(0.2, abs=0.005)
    assert found.seeds == pytest.approx(0.008, rel=0.4)
    assert found.systematic < 0.05


def test_the_benchmark_measures_the_noise_of_a_recipe_with_itself(simulation: ModuleType) -> None:
    """Images of 90 % are always or never right; a tenth, by chance; seeds differ by 2 points."""
    random = np.random.default_rng(0)
    certain = random.random(50_000)
    runs = []
    for _ in range(40):
        indices = random.choice(50_000, 5000, replace=False)
        chance = random.random(5000) + 0.2 * random.standard_normal() < 0.5
        runs.append((indices, np.where(certain[indices] < 0.1, chance, certain[indices] < 0.6)))
    found = simulation.measure_alone(runs, 50_000)
    assert found.discordance == pytest.approx(0.1 * 2 * (0.25 - 0.2**2), abs=0.01)
    assert found.seeds == pytest.approx(2**0.5 * 0.02, rel=0.3)


@pytest.fixture
def make_groups(trained_run: Path, data_dir: Path, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Two groups' folders with runs of these accuracies, as if they had been trained and evaluated."""
    labels = np.load(data_dir / "synthetic" / "train_labels.npy")
    sha256 = json.loads((trained_run / "config.json").read_text())["data"]["train"]["sha256"]

    def make_run(path: Path, seed: int, accuracy: float, **settings: Any) -> None:
        path.mkdir(parents=True)
        for name in ("config.json", "result.json", "history.csv", "environment.json"):
            shutil.copy(trained_run / name, path)
        (path / "model.keras").touch()
        config = json.loads((path / "config.json").read_text())
        write_json(path / "config.json", {**config, "validation": "holdout", "seed": seed, **settings})
        weights = f"{path.parent.name} {seed}"
        result = json.loads((path / "result.json").read_text())
        write_json(path / "result.json", {**result, "weights_sha256": weights})
        _, held_out = holdout(labels, len(labels) // 10, seed)
        right = np.arange(len(held_out)) < accuracy * len(held_out)
        predicted = np.where(right, labels[held_out], (labels[held_out] + 1) % 10)
        report = {
            "accuracy": float(right.mean()), "accuracy_interval": [0.0, 1.0], "loss": 1.0,
            "calibration": {"before": {"ece": 0.1}}, "weights_sha256": weights, "split_sha256": sha256,
        }  # fmt: skip
        write_json(path / "evaluation" / "validation" / "report.json", report)
        np.save(path / "evaluation" / "validation" / "logits.npy", np.eye(10, dtype=np.float32)[predicted])

    def make(first: list[float], second: list[float], **settings: Any) -> tuple[Path, Path]:
        for name, accuracies, own in (("first", first, {}), ("second", second, settings)):
            for seed, accuracy in enumerate(accuracies):
                make_run(tmp_path / name / f"seed-{seed}", seed, accuracy, **own)
            write_json(tmp_path / name / "group.json", {"seeds": [*range(len(accuracies))], "settings": {}})
        return tmp_path / "first", tmp_path / "second"

    return make


def change(run: Path, **settings: Any) -> None:
    config = json.loads((run / "config.json").read_text())
    write_json(run / "config.json", {**config, **settings})


def test_a_gain_of_the_second_group_is_better_and_exits_0(
    make_groups: Callable[..., tuple[Path, Path]],
) -> None:
    first, second = make_groups([0.60, 0.62, 0.61], [0.70, 0.73, 0.70], learning_rate=0.002)
    done = run_here(["compare", first, second, "--decide", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["decision"], found["looks"], found["sweep_trials"]) == ("better", 1, 0)
    assert found["differences"] == pytest.approx([0.10, 0.11, 0.09])
    assert found["difference"] == pytest.approx(0.1)
    assert found["interval"][0] > 0
    assert found["images"] == 1000
    assert found["first"]["name"] == "tutorial, learning_rate 0.001"
    assert found["second"]["runs"] == [str(second / f"seed-{seed}") for seed in range(3)]


def test_a_gain_within_the_noise_is_not_shown_and_exits_4(
    make_groups: Callable[..., tuple[Path, Path]],
) -> None:
    groups = make_groups([0.60, 0.62, 0.61], [0.65, 0.60, 0.62])
    done = run_here(["compare", *groups, "--decide"])
    assert done.exit_code == 4
    assert "Not shown: the gain of +1.33 points" in done.stderr
    assert "3 seeds detect a true gain of" in done.stderr
    assert done.stdout.splitlines()[0] == "accuracy on 1,000 held-out images"
    # The second group is worse, which is no gain either.
    assert run_here(["compare", *reversed(groups), "--decide", "-q"]).exit_code == 4


def test_runs_that_patience_ended_after_different_epochs_are_one_group(
    make_groups: Callable[..., tuple[Path, Path]],
) -> None:
    first, second = make_groups([0.60, 0.62], [0.61, 0.64], learning_rate=0.002)
    early = second / "seed-1" / "result.json"
    ended = {"ended_by": "patience", "epochs": 1, "planned_epochs": 2}
    write_json(early, {**json.loads(early.read_text()), **ended})
    found = comparison.compare([*first.glob("seed-*"), *second.glob("seed-*")], decide=True)
    assert (found.second.name, len(found.second.runs)) == ("tutorial, learning_rate 0.002", 2)
    assert len(comparison.group(found.second.runs)) == 1


def test_each_new_comparison_with_a_run_is_a_look_and_a_repetition_is_none(
    make_groups: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    first, second = make_groups([0.60, 0.62, 0.61], [0.61, 0.64, 0.60], learning_rate=0.002)
    third = tmp_path / "third"
    shutil.copytree(second, third)
    for seed in range(3):
        for name in ("result.json", "evaluation/validation/report.json"):
            path = third / f"seed-{seed}" / name
            path.write_text(path.read_text().replace('"second ', '"third '))

    def looks(*groups: Path) -> int:
        return comparison.compare(groups, decide=True).test.looks

    assert [looks(first, second), looks(first, second), looks(first, third)] == [1, 1, 2]
    assert looks(first, second) == 2


def test_the_trials_of_a_sweep_count_if_the_candidate_is_one_of_them_on_the_same_images(
    make_groups: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    groups = make_groups([0.60, 0.62], [0.61, 0.64], learning_rate=0.002)
    trials = [
        {"number": i, "params": {"learning_rate": rate}, "epochs": epochs}
        for i, (rate, epochs) in enumerate([(0.001, [0.5]), (0.002, [0.6]), (0.003, [0.5]), (0.004, [])])
    ]
    settings = {"dataset": "synthetic", "seed": 1}

    def counted(**changes: Any) -> int:
        record = {"settings": {**settings, **changes}, "trials": trials}
        write_json(tmp_path / "rates" / "sweep.json", record)
        return count_trials(two_groups(groups)[1])

    assert counted() == 3
    # With new seeds, other images are held out; the choice says nothing about them.
    assert counted(seed=7) == 0
    assert counted(recipe="regularized") == 0
    assert counted() == comparison.compare(groups, decide=True).test.looks


def test_the_trials_of_a_sweep_count_however_its_values_are_written(
    make_groups: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    own = {"recipe": "mine", "recipe_sha256": "1" * 64}
    groups = make_groups([0.60, 0.62], [0.61, 0.64], **own, augment="crop:4,flip")
    trial = shutil.copytree(groups[1] / "seed-0", tmp_path / "sweep" / "trial-0")
    # The sweep's folder was moved.
    listed = {"params": {"augment": "flip+crop:4"}, "run_dir": "runs/sweep/trial-0", "epochs": [0.6]}
    settings = {"recipe": "./mine.py", "dataset": "SYNTHETIC", "seed": 0}
    write_json(tmp_path / "sweep" / "sweep.json", {"settings": settings, "trials": [listed]})
    assert count_trials(two_groups(groups)[1]) == 1
    change(trial, recipe_sha256="2" * 64)
    assert count_trials(two_groups(groups)[1]) == 0


def test_groups_that_cannot_be_decided_between_are_refused_by_name(
    make_groups: Callable[..., tuple[Path, Path]],
) -> None:
    first, second = make_groups([0.60, 0.62, 0.61], [0.65, 0.60, 0.62])
    ours, theirs = ([Run(group / f"seed-{seed}") for seed in range(3)] for group in (first, second))

    def refused(message: str) -> None:
        with pytest.raises(UsageError, match=message):
            check_decidable(ours, theirs)

    cases: list[tuple[dict[str, Any], str]] = [
        ({"validation": "test"}, r"second/seed-2 held no images out .*test set must not be used to choose"),
        ({"validation": "train"}, "second/seed-2 held no images out"),
        ({"seed": 7}, "first/seed-2 has seed 2, but no run of the other group does"),
        ({"seed": 1}, "second/seed-1 is one of several runs with seed 1"),
    ]
    for settings, message in cases:
        before = (second / "seed-2" / "config.json").read_text()
        change(second / "seed-2", **settings)
        refused(message)
        (second / "seed-2" / "config.json").write_text(before)
    change(second / "seed-0", keep="best")
    refused("first/seed-0 was trained with --keep last, .*second/seed-0 with --keep best")
    with pytest.raises(UsageError, match="two or more seeds, got 1"):
        check_decidable(ours[1:2], theirs[1:2])
    with pytest.raises(UsageError, match="two groups of runs, got 1"):
        two_groups([first])
    with pytest.raises(UsageError, match="given twice"):
        two_groups([first, first / "seed-0"])


def test_choosing_by_the_test_set_is_refused(tmp_path: Path) -> None:
    refused = run_here(["compare", tmp_path, tmp_path, "--decide", "--split", "test"])
    assert refused.exit_code == 2
    assert "too optimistic" in refused.stderr
