"""`export`: what it makes, and that it makes all of it or nothing."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from command_line import INTERPRETER, run_python

from cifar_trainer import files
from cifar_trainer.artefacts import keras as artefacts_keras
from cifar_trainer.artefacts.documents import make_manifest
from cifar_trainer.artefacts.export import export
from cifar_trainer.artefacts.formats import FORMATS, check_packages, open_artefact, write_artefact
from cifar_trainer.artefacts.measurement import measure_model
from cifar_trainer.artefacts.network import Network
from cifar_trainer.data.dataset import Split
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import CifarTrainerError, RunError
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import LogitsFunction, load_model
from cifar_trainer.run import Run

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def test_the_json_has_the_contracts_keys_and_the_figures_keep_the_bounds(exports: dict[str, Any]) -> None:
    assert set(exports) == {"run_dir", "exports"}
    for each in exports["exports"]:
        assert list(each) == ["format", "path", "bytes", "sha256", "max_abs_difference", "agreement"]
        bound = FORMATS[each["format"]].bound
        assert bound.difference is None or each["max_abs_difference"] <= bound.difference
        assert each["agreement"] >= (0.9 if bound.accuracy_loss else 0.999)


def test_the_manifest_and_the_card_say_what_lies_there(
    exports: dict[str, Any], artefacts: dict[str, Path]
) -> None:
    folder = artefacts["saved_model"].parent
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["format"] for entry in manifest["artefacts"]] == list(artefacts)
    for entry in manifest["artefacts"]:
        for name, digest in entry["files"].items():
            assert files.sha256_file(folder / name) == digest
    assert manifest["accuracy"]["low"] < manifest["accuracy"]["value"] < manifest["accuracy"]["high"]
    card = (folder / "model_card.md").read_text()
    assert "synthetic images (not CIFAR-10)" in card
    assert "it knows nothing about photographs" in card
    assert all(f"`{path.name}`" in card for path in artefacts.values())


def test_the_manifest_tells_the_epochs_that_were_trained_and_lists_what_has_its_temperature(
    learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """A run that is being extended has the model of the shorter one; evaluate may come after an export."""
    run = tmp_path / "run"
    shutil.copytree(learned_run, run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "epochs": 3000}))
    result = json.loads((run / "result.json").read_text())
    for package in (*FORMATS["onnx"].packages, *FORMATS["litert"].packages):
        pytest.importorskip(package)
    export(run, formats=["onnx"], data_dir=data_dir)
    manifest = json.loads((run / "export" / "manifest.json").read_text())
    assert manifest["run"]["epochs"] == 2
    assert "| training | 2 epochs" in (run / "export" / "model_card.md").read_text()
    report = {"calibration": {"temperature": 1.5}, "weights_sha256": result["weights_sha256"]}
    files.write_json(run / "evaluation" / "test" / "report.json", report)
    export(run, formats=["litert"], data_dir=data_dir)
    manifest = json.loads((run / "export" / "manifest.json").read_text())
    assert manifest["temperature"] == 1.5
    assert [entry["format"] for entry in manifest["artefacts"]] == ["litert"]


@pytest.fixture
def evaluated_run(learned_run: Path, tmp_path: Path) -> Run:
    """A copy of the run, and a report with thresholds of unfamiliar images."""
    run = Run(tmp_path / "evaluated")
    shutil.copytree(learned_run, run.path)
    thresholds = {"energy": -3.5, "probability": 0.4}
    report = {"unfamiliar": {"thresholds": thresholds}, "weights_sha256": run.read_result().weights_sha256}
    files.write_json(run.evaluation("test") / "report.json", report)
    return run


def test_the_manifest_has_the_thresholds_of_unfamiliar_images_that_evaluate_fitted(
    evaluated_run: Run, data_dir: Path
) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    measured = measure_model(evaluated_run, evaluated_run.read_config(), dataset)
    manifest = make_manifest(evaluated_run, dataset, measured, [])
    assert manifest["unfamiliar"] == {"energy": -3.5, "probability": 0.4}


def test_the_manifest_of_a_run_that_was_not_evaluated_has_no_thresholds(artefacts: dict[str, Path]) -> None:
    manifest = json.loads((artefacts["saved_model"].parent / "manifest.json").read_text())
    assert manifest["unfamiliar"] is None


def test_an_export_that_measures_on_the_test_set_is_a_look_at_it(evaluated_run: Run, data_dir: Path) -> None:
    before = len(evaluated_run.read_looks())
    measure_model(evaluated_run, evaluated_run.read_config(), load_dataset(data_dir, "synthetic"))
    assert [look.command for look in evaluated_run.read_looks()[before:]] == ["export"]


def test_a_small_split_is_filled_up_to_a_thousand_pictures(
    learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    dataset = load_dataset(data_dir, "synthetic")
    few = Split(dataset.test.images[:120], dataset.test.labels[:120], dataset.test.fingerprint)
    measured = measure_model(
        Run(learned_run), Run(learned_run).read_config(), dataclasses.replace(dataset, test=few)
    )
    assert measured.accuracy.images == 120
    assert measured.reference.images.shape == (1000, 32, 32, 3)
    expected = LogitsFunction(measured.network.model)(measured.reference.images)
    np.testing.assert_allclose(measured.reference.logits, expected, atol=1e-5)


#: `export` up to the gate, whose reference logits it writes to a file.
_REFERENCE = """
import sys
import numpy as np
from cifar_trainer.artefacts import export
def keep(path, form, reference, encoded):
    np.save(sys.argv[3], reference.logits)
    sys.exit()
export.prove = keep
export.export(sys.argv[1], formats=["keras"], data_dir=sys.argv[2])
"""


def test_the_logits_of_the_gate_are_those_of_evaluate_to_the_bit(
    run_cli: RunCli, learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(learned_run, run)
    for done in (
        run_cli(["evaluate", run, "--data-dir", data_dir]),
        run_python(["-c", _REFERENCE, run, data_dir, tmp_path / "reference.npy"]),
    ):
        assert done.returncode == 0, done.stderr
    evaluated = np.load(run / "evaluation" / "test" / "logits.npy")
    order = np.random.default_rng(0).permutation(len(evaluated))
    np.testing.assert_array_equal(np.load(tmp_path / "reference.npy"), evaluated[order])


def test_nothing_but_the_artefacts_and_their_description_is_left(artefacts: dict[str, Path]) -> None:
    folder = artefacts["saved_model"].parent
    expected = {path.name for path in artefacts.values()} | {"manifest.json", "model_card.md"}
    assert {path.name for path in folder.iterdir()} == expected


def refused(run_cli: RunCli, *arguments: object, code: int) -> str:
    done = run_cli(["export", *arguments])
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("Error: ") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_no_such_run(run_cli: RunCli, tmp_path: Path) -> None:
    assert "does not exist" in refused(run_cli, tmp_path / "nothing", code=1)
    assert "has no config.json" in refused(run_cli, tmp_path, code=1)


def test_a_run_without_a_model_says_what_is_there(run_cli: RunCli, learned_run: Path, tmp_path: Path) -> None:
    shutil.copy(learned_run / "config.json", tmp_path)
    message = refused(run_cli, tmp_path, code=1)
    assert "no model.keras (it holds config.json)" in message
    assert "train --resume" in message


def test_what_stands_there_is_refused_and_untouched(
    run_cli: RunCli, learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "saved_model" / "precious").write_text("mine")
    message = refused(run_cli, learned_run, "--output", tmp_path, "--data-dir", data_dir, code=1)
    assert f"{tmp_path / 'saved_model'} exists already" in message
    assert "--force" in message
    assert (tmp_path / "saved_model" / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("tflite", "litert"), ("savedmodel", "saved_model"), ("h5", "keras"), ("int8", "litert-int8")],
)
def test_the_name_of_a_format_in_other_tools_gets_a_hint(run_cli: RunCli, name: str, meant: str) -> None:
    assert f"Did you mean '{meant}'?" in refused(run_cli, "--format", name, code=2)


def test_the_versions_folder_of_a_saved_model_can_be_copied_alone(
    artefacts: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(artefacts["saved_model"] / "1", tmp_path / "alone", symlinks=True)
    opened = open_artefact(tmp_path / "alone")
    assert opened.predict(np.zeros((2, *opened.image_shape), np.uint8)).logits.shape == (2, 10)


def test_the_files_of_a_saved_model_are_counted_once(exports: dict[str, Any]) -> None:
    saved = next(each for each in exports["exports"] if each["format"] == "saved_model")
    version = Path(saved["path"]) / "1"
    assert saved["bytes"] == sum(path.stat().st_size for path in version.rglob("*") if path.is_file())


def test_a_folder_of_links_that_lead_nowhere_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").symlink_to("nowhere")
    with pytest.raises(RunError, match=r"it holds saved_model.pb, a link to what is not there"):
        open_artefact(tmp_path)


def test_the_class_id_of_an_exported_keras_model_is_int64(artefacts: dict[str, Path]) -> None:
    import keras

    model = keras.models.load_model(artefacts["keras"], compile=False)
    assert model(np.zeros((1, 32, 32, 3), np.uint8))["class_id"].dtype == np.int64


@pytest.mark.parametrize("name", ["run [1]", "a*b?", "caf\udce9", "x\ny"])
def test_a_saved_model_is_written_and_read_in_a_folder_of_any_name(
    learned_run: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name / "saved_model"
    folder.mkdir(parents=True)
    network = Network(
        load_model(learned_run / "model.keras"), tuple("abcdefghij"), Preprocessing((32, 32, 3))
    )
    write_artefact(FORMATS["saved_model"], network, folder, np.zeros((40, 32, 32, 3), np.uint8))
    assert open_artefact(folder).classes == network.classes


def test_a_fault_of_a_converter_is_told_as_what_it_is(
    learned_run: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise tf.errors.UnimplementedError(None, None, "no such operation here")

    monkeypatch.setattr(artefacts_keras, "write", fail)
    with pytest.raises(CifarTrainerError, match=r"cannot be written as keras: .*no such operation") as caught:
        export(learned_run, formats=["keras"], output=tmp_path / "out", data_dir=data_dir)
    assert "Make room" not in str(caught.value)


def test_a_full_disk_is_told_as_such_by_a_converter_too(
    learned_run: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "x/variables; No space left on device")

    monkeypatch.setattr(artefacts_keras, "write", fail)
    with pytest.raises(RunError, match=r"cannot be written: No space left on device\. Make room"):
        export(learned_run, formats=["keras"], output=tmp_path / "out", data_dir=data_dir)


def test_what_a_killed_export_left_is_removed_by_the_next(
    learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    left = tmp_path / ".partial-saved_model-killed"
    (left / "1").mkdir(parents=True)
    (left / "1" / "saved_model.pb").write_bytes(b"half")
    os.utime(left, (0, 0))
    export(learned_run, formats=["keras"], output=tmp_path, data_dir=data_dir)
    assert not left.exists()


def test_other_data_than_the_runs_is_refused(
    run_cli: RunCli, learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(learned_run, run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["test"]["fingerprint"] = "0" * 64
    (run / "config.json").write_text(json.dumps(config))
    assert "0" * 64 in refused(run_cli, run, "--data-dir", data_dir, code=3)
    assert not (run / "export").exists()


def test_a_missing_package_is_named_with_its_extra() -> None:
    form = dataclasses.replace(FORMATS["litert"], packages=("no_such_package",))
    with pytest.raises(CifarTrainerError, match=r"no_such_package.*pip install .*\[litert\]'?"):
        check_packages([form])


def run_patched(patch: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `export` in a process of its own, after some lines of Python."""
    code = f"{patch}\nfrom cifar_trainer.cli import main\nmain(prog_name='cifar-trainer')"
    return subprocess.run(
        [INTERPRETER, "-c", code, "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


#: The writer of LiteRT files, with the names of two classes exchanged.
_PERMUTED = """
import dataclasses
from cifar_trainer.artefacts import formats
right = formats.write_artefact
def wrong(form, network, path, examples):
    if form.name == "litert":
        dense = network.model.layers[-1]
        kernel, bias = dense.get_weights()
        dense.set_weights([kernel[:, ::-1], bias[::-1]])
    right(form, network, path, examples)
formats.write_artefact = wrong
"""


def test_one_artefact_that_disagrees_leaves_none_behind(
    learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ai_edge_litert")
    output = tmp_path / "export"
    done = run_patched(
        _PERMUTED, learned_run, "--output", output, "--data-dir", data_dir,
        "--format", "litert-float16", "--format", "litert",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "does not agree with the Keras model" in done.stderr
    assert "The worst images" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


#: SIGKILL when the artefact is written and proved, before it has its name.
_KILLED = """
import os, signal
from cifar_trainer import files
from cifar_trainer.artefacts import keras as artefacts_keras
files.flush_tree = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_before_the_swap_the_old_artefact_is_whole(
    learned_run: Path, data_dir: Path, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(artefacts["saved_model"], tmp_path / "saved_model", symlinks=True)
    before = files.sha256_tree(tmp_path / "saved_model")
    done = run_patched(_KILLED, learned_run, "--output", tmp_path, "--data-dir", data_dir, "--force")
    assert done.returncode == -signal.SIGKILL
    assert files.sha256_tree(tmp_path / "saved_model") == before
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith((".partial-", "saved_model"))]
