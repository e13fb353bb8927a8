"""`train` writes a whole run, stops when asked, and goes on to the same bits."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest
from command_line import RunCli, run_python, start_command

from cifar_trainer.errors import UsageError
from cifar_trainer.training.api import resume

ROOT = Path(__file__).resolve().parent.parent
RESULT_KEYS = [
    "run_dir", "recipe", "dataset", "epochs", "seed", "parameters", "device", "precision", "train",
    "validation", "seconds", "images_per_second", "weights_sha256",
    "test_looks", "compile_seconds", "planned_epochs", "chosen_epoch", "chosen_by",
    "ended_by",
]  # fmt: skip


def history(run: Path) -> list[dict[str, str]]:
    with open(run / "history.csv", newline="") as file:
        times = ("images_per_second", "seconds", "compile_seconds")
        return [{k: v for k, v in row.items() if k not in times} for row in csv.DictReader(file)]


def result(run: Path) -> dict[str, object]:
    return json.loads((run / "result.json").read_text())


def test_a_run_has_its_files_and_its_result_the_contracts_keys(trained_run: Path) -> None:
    for name in ("config.json", "environment.json", "history.csv", "result.json", "model.keras"):
        assert (trained_run / name).is_file()
    assert len(list((trained_run / "checkpoints").glob("step-*"))) == 2
    written = result(trained_run)
    assert list(written) == RESULT_KEYS
    assert written["parameters"] == 122_570
    assert written["validation"]["split"] == "test"
    config = json.loads((trained_run / "config.json").read_text())
    assert "not CIFAR-10" in config["data"]["title"], "what was trained on synthetic pictures says so"
    assert not list(trained_run.rglob(".partial-*"))


def test_the_model_loads_with_plain_keras_and_scores_what_training_reported(
    trained_run: Path, data_dir: Path
) -> None:
    program = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "images, labels = (np.load(f'{sys.argv[2]}/test_{what}.npy') for what in ('images', 'labels'))\n"
        "print(model.count_params(), model.evaluate(images, labels, verbose=0)[1])\n"
        "assert not any(name.startswith('cifar_trainer') for name in sys.modules)\n"
    )
    done = run_python(["-c", program, trained_run / "model.keras", data_dir / "synthetic"])
    assert done.returncode == 0, done.stderr
    parameters, accuracy = done.stdout.split()
    assert parameters == "122570"
    assert float(accuracy) == pytest.approx(result(trained_run)["validation"]["accuracy"], abs=1e-3)


def test_tensorboards_files_hold_curves_graph_samples_and_settings(trained_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = history(trained_run)
    for split, prefix in (("train", ""), ("validation", "val_")):
        events = EventAccumulator(str(trained_run / "tensorboard" / split), {"tensors": 0}).Reload()
        from tensorboard.util.tensor_util import make_ndarray

        for name in ("loss", "accuracy"):
            seen = [(e.step, float(make_ndarray(e.tensor_proto))) for e in events.Tensors(f"epoch/{name}")]
            assert [step for step, _ in seen] == [1, 2]
            assert [v for _, v in seen] == pytest.approx([float(r[f"{prefix}{name}"]) for r in rows])
        if split == "train":
            assert {"epoch/learning_rate", "speed/images_per_second", "settings", "figures/samples"} <= set(
                events.Tags()["tensors"]
            )
            assert events.Tags()["graph"]
    hparams = EventAccumulator(str(trained_run / "tensorboard")).Reload()
    assert "_hparams_/session_start_info" in hparams.summary_metadata


@pytest.fixture(scope="module")
def settings(small_data: Path) -> list[object]:
    return [
        "--dataset", "synthetic", "--data-dir", small_data, "--offline", "--recipe", "regularized",
        "--batch-size", 4,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(run_cli: RunCli, settings: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    done = run_cli(["train", *settings, "--epochs", 3, "--run-dir", run])
    assert done.returncode == 0, done.stderr
    return run


#: The command line, which after the first steps of a run waits until it is asked to stop.
HELD = """
import itertools, os, sys, time
from pathlib import Path
from cifar_trainer.cli import displays, main
questions, asked = itertools.count(), displays.TrainingDisplay.should_stop
def held(self):
    if next(questions) == 1:
        Path(os.environ["HELD"]).touch()
        while not asked(self):
            time.sleep(0.01)
    return asked(self)
displays.TrainingDisplay.should_stop = held
main(sys.argv[1:], prog_name="cifar-trainer")
"""


def test_a_run_stopped_in_an_epoch_goes_on_to_the_same_bits(
    run_cli: RunCli, settings: list[object], uninterrupted: Path, tmp_path: Path
) -> None:
    """SIGTERM: exit code 143, the command that resumes, and the uninterrupted run's weights and history."""
    run, held = tmp_path / "run", tmp_path / "held"
    words = ["train", *settings, "--epochs", 3, "--run-dir", run]
    process = start_command(words, program=["-c", HELD], env={"HELD": held})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not held.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert out == ""
    assert "Traceback" not in err
    assert f"cifar-trainer train --resume {run}" in err
    assert 0 < max(steps(run)) < 80
    done = run_cli(["train", "--resume", run, "--data-dir", settings[3], "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights_sha256"] == result(uninterrupted)["weights_sha256"]
    assert history(run) == history(uninterrupted)


def steps(run: Path) -> set[int]:
    return {int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")}


def test_a_finished_run_says_so_and_other_settings_are_refused_by_name(
    run_cli: RunCli, settings: list[object], uninterrupted: Path
) -> None:
    data = ["--data-dir", settings[3]]
    done = run_cli(["train", "--resume", uninterrupted, *data])
    assert done.returncode == 0
    assert "is already finished (3 epochs). Pass a larger --epochs to train longer." in done.stderr
    for name, value in {
        "seed": 1,
        "recipe": "tutorial",
        "precision": "bfloat16",
        "batch_size": 16,
        "epochs": 2,
    }.items():
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} was .* got {value}"):
            resume(uninterrupted, **{name: value})


def test_a_loss_that_is_not_finite_ends_the_run_and_names_epoch_and_step(
    run_cli: RunCli, small_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = run_cli(
        ["train", "--dataset", "synthetic", "--data-dir", small_data, "--limit", 320, "--epochs", 2,
         "--learning-rate", "1e30", "--run-dir", run]
    )  # fmt: skip
    assert done.returncode == 1
    assert "not finite at epoch 1, step" in done.stderr
    assert "Traceback" not in done.stderr
    failure = json.loads((run / "failure.json").read_text())
    assert failure["epoch"] == 1
    assert steps(run) == {0}, "nothing of what is not finite was saved"


def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(small_data: Path) -> None:
    """Eight SIGKILLs; `benchmarks/kill_and_resume.py` is the same trial for as many as one likes."""
    trial = [ROOT / "benchmarks" / "kill_and_resume.py", "--kills", 8, "--recipe", "tutorial"]
    # Whole batches: a part of one would be another program to compile for each kill.
    done = run_python([*trial, "--data-dir", small_data, "--", "--limit", 96])
    print(done.stderr)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["kills"] >= 8
    assert told["different"] == 0
