"""`train --resume` where something is not as it was."""

import json
import shutil
from pathlib import Path

import pytest
from command_line import RunCli

from cifar_trainer.comparison import read_evaluated
from cifar_trainer.data.dataset import ImageSet, Split
from cifar_trainer.data.store import load_dataset, write_dataset
from cifar_trainer.run import Run
from cifar_trainer.training.checkpoint import list_checkpoints
from cifar_trainer.training.tensorboard import truncate_events


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(trained_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_passed_over_and_what_is_ahead_of_it_is_removed(
    run_cli: RunCli, run: Path, trained_run: Path, data_dir: Path
) -> None:
    """The newest loses its end: the run goes on from the one before, to the same bits, nothing doubled."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    newest, before = list_checkpoints(run / "checkpoints")
    arrays = newest / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    expected = json.loads((run / "result.json").read_text())
    (run / "result.json").unlink()
    done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--json"])
    assert done.returncode == 0, done.stderr
    assert f"{newest} is damaged: arrays.npz" in done.stderr
    assert "Resuming after 1 epoch and 0 steps" in done.stderr, before
    result = json.loads(done.stdout)
    for key in ("weights_sha256", "train", "validation"):
        assert result[key] == expected[key]
    losses = [line.split(",")[1] for line in (run / "history.csv").read_text().splitlines()]
    assert losses == [line.split(",")[1] for line in (trained_run / "history.csv").read_text().splitlines()]
    for split in ("train", "validation"):
        events = EventAccumulator(str(run / "tensorboard" / split), {"tensors": 0}).Reload()
        assert [event.step for event in events.Tensors("epoch/loss")] == [1, 2]


def test_another_environment_is_told_and_the_run_extended(run_cli: RunCli, run: Path, data_dir: Path) -> None:
    record = json.loads((run / "environment.json").read_text())
    record["versions"]["tensorflow"] = "2.20.0"
    record["threads"]["inter_op"] = 7
    (run / "environment.json").write_text(json.dumps(record))
    done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--epochs", 3])
    assert done.returncode == 0, done.stderr
    assert "TensorFlow was 2.20.0 and is " in done.stderr
    assert "inter-op threads was 7" in done.stderr
    assert done.stderr.count("will not be bit-identical") == 2
    assert json.loads((run / "result.json").read_text())["epochs"] == 3
    assert len((run / "history.csv").read_text().splitlines()) == 4
    now = json.loads((run / "environment.json").read_text())
    assert now["earlier"] == [record], "what the run was begun with is not forgotten"
    assert "--epochs 3" in now["command_line"]
    assert shown_epochs(run) == [3], "the table of runs shows the settings that are in force"


def shown_epochs(run: Path) -> list[float]:
    """What TensorBoard's hparams say of the epochs, each time that they say it."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    told = []
    for path in (run / "tensorboard").glob("events.out.tfevents.*"):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                if data.HasField("session_start_info"):
                    told.append(data.session_start_info.hparams["epochs"].number_value)
    return told


def test_a_finished_run_without_its_model_gets_it_back_from_the_last_checkpoint(
    run_cli: RunCli, run: Path, data_dir: Path
) -> None:
    expected = json.loads((run / "result.json").read_text())["weights_sha256"]
    (run / "model.keras").unlink()
    done = run_cli(["evaluate", run, "--data-dir", data_dir])
    assert done.returncode == 1
    assert f"cifar-trainer train --resume {run}" in done.stderr
    done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights_sha256"] == expected
    assert (run / "model.keras").is_file()


def test_events_that_a_kill_has_left_in_the_old_files_and_the_new_one_are_kept_once(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run / "tensorboard" / "validation"
    (old,) = folder.glob("events.out.tfevents.*")
    shutil.copy(old, folder / "events.out.tfevents.9999999999.copy")
    truncate_events(folder, 2)
    events = EventAccumulator(str(folder), {"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("epoch/loss")] == [1, 2]
    assert len(list(folder.iterdir())) == 1


def test_a_run_that_another_process_holds_is_left_to_it(run_cli: RunCli, run: Path, data_dir: Path) -> None:
    with Run(run).hold():
        done = run_cli(["train", "--resume", run, "--data-dir", data_dir, "--epochs", 3])
    assert done.returncode == 1
    assert f"{run} is in use by another process" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((run / "config.json").read_text())["epochs"] == 2


def test_the_same_images_in_another_order_are_refused_where_the_order_counts(
    run_cli: RunCli, run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """As another source of CIFAR-10 gives them: resuming needs the order, an accuracy does not."""
    whole = load_dataset(data_dir, "synthetic")
    raw = ImageSet(
        whole.classes,
        {
            "train": Split(whole.train.images[::-1], whole.train.labels[::-1]),
            "test": Split(whole.test.images[::-1], whole.test.labels[::-1]),
        },
    )
    write_dataset(tmp_path / "other" / "synthetic", "synthetic", raw, "drawn")
    other = ["--data-dir", tmp_path / "other"]
    done = run_cli(["train", "--resume", run, *other, "--epochs", 3])
    assert done.returncode == 3
    assert "the same images in a different order" in done.stderr
    accuracy = json.loads((run / "result.json").read_text())["validation"]["accuracy"]
    done = run_cli(["evaluate", run, *other, "--json"])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accuracy"] == accuracy
    assert read_evaluated(Run(run), "test", load_dataset(tmp_path / "other", "synthetic").test) is not None
    assert read_evaluated(Run(run), "test", whole.test) is None, "its logits are in the other order"
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "validation": "holdout"}))
    done = run_cli(["evaluate", run, *other])
    assert done.returncode == 3
    assert "the same images in a different order" in done.stderr


def test_other_data_is_refused_by_its_fingerprint(
    run_cli: RunCli, run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """Another version of the set under the same name."""
    other = tmp_path / "other"
    shutil.copytree(data_dir, other)
    record = json.loads((other / "synthetic" / "dataset.json").read_text())
    record["train"]["fingerprint"] = "0" * 64
    (other / "synthetic" / "dataset.json").write_text(json.dumps(record))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = run_cli(["train", "--resume", run, "--data-dir", other, "--epochs", 3])
    assert done.returncode == 3
    assert "was trained on different data" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
