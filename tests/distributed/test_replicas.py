"""Several processes train one run: to the same losses, stopped and resumed like one."""

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from command_line import environment, python, start_command

from cifar_trainer.errors import RunError, UsageError
from cifar_trainer.run import Run
from cifar_trainer.training import distributed
from cifar_trainer.training.checkpoint import checkpoint_step, list_checkpoints
from cifar_trainer.training.distributed import SINGLE, Shard, tf_config, train_together
from cifar_trainer.training.layers import KernelVariants, check_shardable, replaced_layers

#: Trains some steps of a recipe as one of several processes, and keeps losses and weights.
STEPS = """
import sys, numpy as np
from cifar_trainer import devices
from cifar_trainer.settings import Settings
from cifar_trainer.data.dataset import Split
from cifar_trainer.training.distributed import find_cluster
from cifar_trainer.recipes import get_recipe, is_splittable
recipe, batch, steps, data, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
augment = "flip,mixup:0.2,cutmix:1" if recipe == "tutorial" else None
config = Settings(recipe, "synthetic", 1, batch, 1e-4, seed=3, device="cpu", augment=augment)
devices.start(config, split=is_splittable(config))
from cifar_trainer.training.assembly import assemble
from cifar_trainer.training.loop import epoch_order
from cifar_trainer.training.distributed import join
replicas = join(find_cluster(), gpu=False)
images, labels = np.load(f"{data}/train_images.npy"), np.load(f"{data}/train_labels.npy")
count = steps * batch - 5
split, indices = Split(images[:count], labels[:count], ""), np.arange(count)
loop = assemble(config, get_recipe(recipe), split, indices, classes=10, gpu=False, replicas=replicas)
loop.set_order(epoch_order(3, 0, count))
(chunk,) = loop.run(0, steps, 0)
weights = np.concatenate([weight.ravel() for weight in loop.model.get_weights()])
np.savez(out, losses=chunk.losses, correct=chunk.correct, weights=weights)
"""


def free_addresses(count: int) -> tuple[str, ...]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return addresses


def test_a_process_that_does_not_start_is_named_and_the_others_do_not_wait_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "START_SECONDS", 0.1)
    mine, missing = free_addresses(2)
    with pytest.raises(RunError, match=rf"^{missing} did not start within 0.1 s"):
        distributed.ProcessGroup(distributed.Cluster((mine, missing), 0), gpu=False)


def test_sums_between_steps_take_no_new_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow keeps each key for the life of the process. The sum itself is a stand-in."""
    keys: list[int] = []

    def reduce(*, input: tf.Tensor, instance_key: int, **_: object) -> tf.Tensor:
        keys.append(instance_key)
        return input

    monkeypatch.setattr(tf.raw_ops, "CollectiveReduceV2", reduce)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda resolver: None)
    monkeypatch.setattr(distributed, "_await_listeners", lambda cluster: None)
    group = distributed.ProcessGroup(distributed.Cluster(free_addresses(2), 0), gpu=False)
    weights = [keras.Variable(np.ones((2, 3), np.float32)), keras.Variable(np.ones(5, np.float32))]
    for epoch in range(4):
        group.sum_numbers(True, epoch)
        group.broadcast(lambda: np.full((4, 10), epoch, np.float32))  # noqa: B023
        assert group.broadcast_json({"epoch": epoch, "message": "x" * epoch}) == {
            "epoch": epoch, "message": "x" * epoch,
        }  # fmt: skip
        group.broadcast_variables(weights)
        if epoch == 0:
            after_one_epoch = len(keys)
    assert len(keys) == after_one_epoch
    assert len(set(keys)) == len(keys), "each operation of a program has its own"


def variables(count: int) -> list[dict[str, str]]:
    addresses = free_addresses(count)
    return [{"TF_CONFIG": tf_config(addresses, rank)} if count > 1 else {} for rank in range(count)]


def trained_steps(count: int, recipe: str, batch: int, steps: int, data: Path, out: Path) -> list[Any]:
    """What each of `count` processes has found."""
    program = out / "steps.py"
    program.write_text(STEPS)
    files = [out / f"{recipe}-{count}-{rank}.npz" for rank in range(count)]
    processes = [
        subprocess.Popen(
            [python(), *map(str, (program, recipe, batch, steps, data / "synthetic", file))],
            env=environment(changes), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for file, changes in zip(files, variables(count), strict=True)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return [np.load(file) for file in files]


@pytest.mark.parametrize(
    ("recipe", "batch", "steps", "count"),
    # Of the three processes' last batch each computes every image: it has two.
    [("tutorial", 7, 10, 3), ("regularized", 30, 8, 2)],
)
def test_several_processes_find_the_losses_of_one(
    recipe: str, batch: int, steps: int, count: int, data_dir: Path, tmp_path: Path
) -> None:
    alone = trained_steps(1, recipe, batch, steps, data_dir, tmp_path)[0]
    together = trained_steps(count, recipe, batch, steps, data_dir, tmp_path)
    np.testing.assert_allclose(together[0]["losses"], alone["losses"], atol=2e-4)
    for other in together[1:]:
        np.testing.assert_array_equal(other["losses"], together[0]["losses"])
        np.testing.assert_array_equal(other["weights"], together[0]["weights"])


@pytest.mark.parametrize("noise_shape", [None, (None, 1)])
def test_dropout_of_a_part_has_the_rows_of_the_whole_batchs_mask(
    noise_shape: tuple[int | None, int] | None,
) -> None:
    layer = keras.layers.Dropout(0.5, noise_shape=noise_shape, seed=3)
    model = keras.Sequential([keras.Input((7,)), layer])
    whole = model(tf.ones((6, 7)), training=True)
    layer.seed_generator.state.assign(keras.layers.Dropout(0.5, seed=3).seed_generator.state)
    with replaced_layers(model, KernelVariants(), tf.constant(0), Shard(6, 2, 5, SINGLE)):
        part = model(tf.ones((3, 7)), training=True)
    np.testing.assert_array_equal(part, whole[2:5])


def test_a_layer_that_would_draw_otherwise_in_parts_is_refused() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.GaussianNoise(0.1, name="noise")])
    with pytest.raises(UsageError, match="The layer noise"):
        check_shardable(model)


#: The command line; after a number of steps its run waits, in an epoch, until it is asked to stop or killed.
HELD = """
import sys, time
from pathlib import Path
from cifar_trainer.cli import main
from cifar_trainer.training.trainer import Trainer
held, steps = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
advance, steps_left = Trainer.advance, Trainer.steps_left
def wait(self, *, stop):
    if self.global_step < steps or stop:
        advance(self, stop=stop)
    else:
        held.touch()
        time.sleep(0.01)
Trainer.advance = wait
Trainer.steps_left = property(lambda self: steps_left.fget(self) if self.global_step < steps else 0)
main(sys.argv[1:], prog_name="cifar-trainer")
"""


class Pair:
    """Two processes that train one small run.

    Args:
        run: its folder.
        data_dir: where the synthetic set lies.
    """

    def __init__(self, run: Path, data_dir: Path) -> None:
        self.run, self.held = run, run.with_name("held")
        self.data = ["--data-dir", data_dir]

    def start(self, *options: object, hold_at: int | None = None) -> None:
        words = ["train", "--dataset", "synthetic", "--limit", 320, "--epochs", 2, "--batch-size", 4]
        self._start([*words, "--run-dir", self.run, *options], hold_at)

    def resume(self, hold_at: int | None = None) -> None:
        self._start(["train", "--resume", self.run, "--json"], hold_at)

    def _start(self, words: list[object], hold_at: int | None) -> None:
        """Start both; with `hold_at`, return once they wait at that step or soon after it."""
        words = [*words, "--device", "cpu", "--checkpoint-every", "0.000001", *self.data]
        program: list[object] = ["-m", "cifar_trainer"]
        if hold_at is not None:
            program = ["-c", HELD, self.held, hold_at]
        self.held.unlink(missing_ok=True)
        self.processes = [start_command(words, env=changes, program=program) for changes in variables(2)]
        until = time.monotonic() + 120
        while hold_at is not None and not self.held.exists():
            assert time.monotonic() < until
            assert self.processes[0].poll() is None, self.processes[0].communicate()
            time.sleep(0.02)

    def newest_step(self) -> int:
        return checkpoint_step(list_checkpoints(self.run / "checkpoints")[0])

    def end(self) -> tuple[list[int], list[str], list[str]]:
        """The exit codes, and what they wrote to stdout and stderr."""
        pairs = [process.communicate(timeout=200) for process in self.processes]
        codes = [process.returncode for process in self.processes]
        return codes, [out for out, _ in pairs], [errors for _, errors in pairs]


def finished(pair: Pair) -> dict[str, Any]:
    codes, out, errors = pair.end()
    assert codes == [0, 0], errors
    assert (out[1], errors[1]) == ("", "")
    result: dict[str, Any] = json.loads(out[0])
    return result


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, trained_run: Path
) -> dict[str, Any]:
    pair = Pair(tmp_path_factory.mktemp("pair") / "run", small_data)
    pair.start("--json", *fine_tuning(trained_run))
    return finished(pair)


def fine_tuning(parent: Path) -> list[object]:
    """Options of a run that starts from another one's weights and freezes a layer for one of two epochs."""
    return ["--weights", parent, "--freeze", "conv1", "--unfreeze-after", 1]


def test_the_run_of_two_processes_says_so(undisturbed: dict[str, Any], trained_run: Path) -> None:
    described = json.loads((Path(undisturbed["run_dir"]) / "environment.json").read_text())
    assert described["replicas"] == 2
    expected = json.loads((trained_run / "result.json").read_text())["weights_sha256"]
    assert Run(Path(undisturbed["run_dir"])).read_config().weights_sha256 == expected


def test_a_signal_or_a_kill_of_one_process_ends_both_and_they_go_on_to_the_same_bits(
    undisturbed: dict[str, Any], small_data: Path, trained_run: Path, tmp_path: Path
) -> None:
    pair = Pair(tmp_path / "run", small_data)
    pair.start(*fine_tuning(trained_run), hold_at=8)
    pair.processes[1].send_signal(signal.SIGTERM)
    codes, _, errors = pair.end()
    assert codes == [143, 143], errors
    assert f"cifar-trainer train --resume {pair.run}" in errors[0]
    assert pair.newest_step() == 8

    # Past one more checkpoint.
    pair.resume(hold_at=17)
    pair.processes[1].kill()
    codes, _, errors = pair.end()
    assert codes[0] == 1
    assert "worker 1 (127.0.0.1:" in errors[0]
    assert pair.newest_step() == 16

    pair.resume()
    assert finished(pair)["weights_sha256"] == undisturbed["weights_sha256"]


def test_a_killed_first_process_is_named_and_where_it_cannot_begin_again_the_other_says_why(
    small_data: Path, tmp_path: Path
) -> None:
    pair = Pair(tmp_path / "run", small_data)
    pair.start(hold_at=8)
    pair.processes[0].kill()
    codes, _, errors = pair.end()
    assert codes[1] == 1
    assert "worker 0 (127.0.0.1:" in errors[1]
    for checkpoint in list_checkpoints(pair.run / "checkpoints"):
        (checkpoint / "arrays.npz").write_bytes(b"")
    pair.resume()
    codes, _, errors = pair.end()
    assert codes == [1, 1]
    assert "The first process could not start: " in errors[1] and "no intact checkpoint" in errors[1]


def test_a_process_with_other_settings_than_the_first_names_them(small_data: Path, tmp_path: Path) -> None:
    words = ["train", "--dataset", "synthetic", "--limit", 80, "--epochs", 1, "--data-dir", small_data]
    words += ["--run-dir", tmp_path / "run", "--device", "cpu"]
    processes = [
        start_command([*words, "--seed", seed], env=changes)
        for seed, changes in enumerate(variables(2))
    ]  # fmt: skip
    errors = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 2], errors
    assert "differ from those of the first one: seed" in errors[1]


def test_gpus_of_one_machine_are_a_process_each(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the fork server takes the processes.
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    words = ["train", "--dataset", "synthetic", "--limit", "80", "--epochs", "1", "--device", "cpu"]
    words += ["--data-dir", str(small_data), "--run-dir", str(tmp_path / "run"), "-q"]
    # Two that are none: the processes find no GPU and compute on the CPU.
    assert train_together(words, ["-1", "-1"]) == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["replicas"] == 2
