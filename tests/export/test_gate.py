"""The gate: an artefact that answers otherwise than the Keras model is not put in place (row 58)."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cifar_trainer import files
from cifar_trainer.data import load_dataset
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.errors import CheckError
from cifar_trainer.export.formats import FORMATS, Format
from cifar_trainer.export.manifest import Export
from cifar_trainer.export.network import Network
from cifar_trainer.prediction.artefact import open_artefact
from cifar_trainer.run import Run, open_run

#: Changes the network before it is written, the path after it was written, or both.
Change = Callable[[Network], Network]
Damage = Callable[[Path, Network], None]
#: Exports one format into a folder with an earlier artefact, through a writer that does something wrong.
BrokenExport = Callable[..., list[Export]]

LOWEST_EXPONENT_BIT, HIGHEST_EXPONENT_BIT = 23, 30


@pytest.fixture(scope="module")
def dataset(data_dir: Path) -> Dataset:
    return load_dataset(data_dir, "synthetic")


@pytest.fixture(scope="module")
def run(learned_run: Path) -> Run:
    return open_run(learned_run)


@pytest.fixture
def export(run: Run, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrokenExport:
    """The real exporter with a writer that is wrong, into `tmp_path`."""
    from cifar_trainer.export import exporter

    right = exporter.write_artefact

    def export(name: str, change: Change = lambda n: n, damage: Damage = lambda p, n: None) -> list[Export]:
        def wrong(form: Format, network: Network, path: Path, examples: np.ndarray) -> None:
            changed = change(network)
            right(form, changed, path, examples)
            damage(path, changed)

        monkeypatch.setattr(exporter, "write_artefact", wrong)
        pytest.importorskip({"litert": "ai_edge_litert", "onnx": "tf2onnx"}.get(name, "keras"))
        return exporter.export_run(run, [FORMATS[name]], tmp_path, dataset, replace=True)

    return export


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(export: BrokenExport, folder: Path, earlier: Path, name: str, **wrong: object) -> str:
    """The gate's message; what stood in the folder is as it was, and nothing else is there."""
    copy = shutil.copytree if earlier.is_dir() else shutil.copy
    copy(earlier, folder / earlier.name)
    before = contents(folder)
    with pytest.raises(CheckError) as refused:
        export(name, **wrong)
    assert contents(folder) == before
    assert [path.name for path in folder.iterdir()] == [earlier.name]
    assert "not put in place" in str(refused.value)
    return str(refused.value)


def assert_names_the_worst(message: str) -> None:
    heading, *lines = message.split("The worst pictures")[1].splitlines()
    assert "by their place among those compared" in heading
    assert len(lines) == 5
    assert all("Keras says" in line and "largest difference" in line for line in lines)


def flip(bit: int) -> Damage:
    """Flip one bit of the largest bias of the last layer, wherever the file holds it."""

    def damage(path: Path, network: Network) -> None:
        bias = network.model.get_layer("logits").bias.numpy()
        content = bytearray(path.read_bytes())
        assert content.count(bias.tobytes()) == 1
        place = content.index(bias.tobytes()) + 4 * int(np.abs(bias).argmax())
        content[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    return damage


@pytest.mark.parametrize("bit", [LOWEST_EXPONENT_BIT, HIGHEST_EXPONENT_BIT])
@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_a_flipped_bit_in_the_weights_is_found(
    export: BrokenExport, artefacts: dict[str, Path], tmp_path: Path, name: str, bit: int
) -> None:
    message = refusal(export, tmp_path, artefacts[name], name, damage=flip(bit))
    assert f"The {name} artefact does not agree with the Keras model at batch size 1" in message
    assert "a logit differs by" in message
    assert_names_the_worst(message)


def test_a_flipped_bit_in_a_saved_models_variables_is_found(
    export: BrokenExport, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    """TensorFlow's own checksum finds it, while the artefact is loaded: there are no answers to compare."""

    def damage(path: Path, network: Network) -> None:
        [variables] = (path / "variables").glob("variables.data-*")
        flip(LOWEST_EXPONENT_BIT)(variables, network)

    message = refusal(export, tmp_path, artefacts["saved_model"], "saved_model", damage=damage)
    assert "could not be used in a clean process" in message
    assert "Checksum does not match" in message


def unscaled(network: Network) -> Network:
    network.model.get_layer("scale").scale = 1.0
    return network


def test_preprocessing_left_out_is_found(
    export: BrokenExport, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    message = refusal(export, tmp_path, artefacts["onnx"], "onnx", change=unscaled)
    assert "the top class agrees for" in message
    assert_names_the_worst(message)


#: The command, with a writer that leaves the preprocessing out.
_UNSCALED_COMMAND = """
from cifar_trainer.export import writers
right = writers.write_artefact
def wrong(form, network, path, examples):
    network.model.get_layer("scale").scale = 1.0
    right(form, network, path, examples)
writers.write_artefact = wrong
from cifar_trainer.cli import main
main(prog_name="cifar-trainer")
"""


def test_the_command_ends_with_4_and_leaves_no_folder(
    learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "export"
    arguments = ["export", learned_run, "--data-dir", data_dir, "--output", output, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _UNSCALED_COMMAND, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "The saved_model artefact does not agree with the Keras model at batch size 1" in done.stderr
    assert_names_the_worst(done.stderr.rstrip())
    assert not output.exists()


def test_permuted_class_names_are_found(
    export: BrokenExport, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    def change(network: Network) -> Network:
        first, second, *rest = network.classes
        return dataclasses.replace(network, classes=(second, first, *rest))

    message = refusal(export, tmp_path, artefacts["onnx"], "onnx", change=change)
    assert "names the classes checks, bar, crescent" in message
    assert "expected bar, checks, crescent" in message


def test_permuted_logits_are_found(export: BrokenExport, artefacts: dict[str, Path], tmp_path: Path) -> None:
    def change(network: Network) -> Network:
        layer = network.model.get_layer("logits")
        kernel, bias = layer.get_weights()
        order = [1, 0, *range(2, 10)]
        layer.set_weights([kernel[:, order], bias[order]])
        return network

    message = refusal(export, tmp_path, artefacts["onnx"], "onnx", change=change)
    assert "does not agree with the Keras model" in message
    assert_names_the_worst(message)


def shifted(amount: float) -> Change:
    def change(network: Network) -> Network:
        layer = network.model.get_layer("logits")
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias + np.eye(10, dtype=np.float32)[3] * amount])
        return network

    return change


def test_within_the_bound_an_artefact_passes(export: BrokenExport, tmp_path: Path) -> None:
    [made] = export("onnx", change=shifted(5e-5))
    assert 4e-5 < made.proof.max_abs_difference < 1e-4
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "manifest.json", "model_card.md"}
    assert files.sha256_file(tmp_path / "model.onnx") == made.sha256


def test_just_beyond_the_bound_it_does_not(
    export: BrokenExport, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    message = refusal(export, tmp_path, artefacts["onnx"], "onnx", change=shifted(2e-4))
    assert "a logit differs by 0.0002" in message
    assert "and at most 0.0001 is allowed" in message


def test_a_model_trained_in_mixed_precision_is_exported_and_passes(
    learned_run: Path, dataset: Dataset, tmp_path: Path
) -> None:
    import keras

    from cifar_trainer.export.exporter import export_run
    from cifar_trainer.prediction.keras_model import is_float32, load_model
    from cifar_trainer.recipes import document

    folder = tmp_path / "run"
    shutil.copytree(learned_run, folder)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = document.build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(load_model(learned_run / "model.keras").get_weights())
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(dataset.train.images[:640], dataset.train.labels[:640], epochs=1, verbose=0)
    model.save(folder / "model.keras")
    assert not is_float32(load_model(folder / "model.keras"))

    [made] = export_run(open_run(folder), [FORMATS["saved_model"]], tmp_path / "export", dataset)
    assert made.proof.agreement == 1.0
    assert made.proof.max_abs_difference <= 1e-4
    # In float32, as other runtimes have it: what the same weights say in a network of that precision.
    narrow = load_model(folder / "model.keras")
    wide = document.build_model()
    wide.set_weights(narrow.get_weights())
    images = dataset.test.images[:50]
    served = open_artefact(tmp_path / "export" / "saved_model").predict(images)
    np.testing.assert_allclose(served.logits, wide.predict_on_batch(images), rtol=0, atol=1e-4)
    assert np.abs(served.logits - narrow.predict_on_batch(images)).max() > 1e-3
