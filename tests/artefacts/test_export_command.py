"""`export`: what it makes, and that it makes all of it or nothing."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer import files
from cifar_trainer.artefacts import export as export_module
from cifar_trainer.artefacts import gate
from cifar_trainer.artefacts import keras as artefacts_keras
from cifar_trainer.artefacts.export import ExportReport, MeasuredModel, make_manifest, measure_model
from cifar_trainer.artefacts.formats import FORMATS, check_packages, open_artefact, write_artefact
from cifar_trainer.artefacts.gate import Reference, prove
from cifar_trainer.artefacts.manifest import read_manifest
from cifar_trainer.data.store import load_dataset
from cifar_trainer.errors import CheckError, CifarTrainerError, RunError, UsageError
from cifar_trainer.evaluation.subject import load_subject
from cifar_trainer.images import Preprocessing
from cifar_trainer.model import LogitsFunction, Network
from cifar_trainer.recipes import RECIPES
from cifar_trainer.run import Run

RunCli = Callable[..., subprocess.CompletedProcess[str]]
Export = Callable[..., ExportReport]


# What every format gets, as `export --json` printed it.


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
    manifest = read_manifest(folder)
    assert manifest is not None
    assert [entry.format for entry in manifest.artefacts] == list(artefacts)
    for entry, printed in zip(manifest.artefacts, exports["exports"], strict=True):
        assert entry.to_json() == {**printed, "path": Path(printed["path"]).name}
        for name, digest in entry.files.items():
            assert files.sha256_file(folder / name) == digest
    assert manifest.accuracy.low < manifest.accuracy.value < manifest.accuracy.high
    assert manifest.unfamiliar is None
    card = (folder / "model_card.md").read_text()
    assert "synthetic images (not CIFAR-10)" in card
    assert "it knows nothing about photographs" in card
    assert all(f"`{path.name}`" in card for path in artefacts.values())


def test_nothing_but_the_artefacts_and_their_description_is_left(artefacts: dict[str, Path]) -> None:
    folder = artefacts["saved_model"].parent
    expected = {path.name for path in artefacts.values()} | {"manifest.json", "model_card.md"}
    assert {path.name for path in folder.iterdir()} == expected


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


def test_the_class_id_of_an_exported_keras_model_is_int64(artefacts: dict[str, Path]) -> None:
    import keras

    model = keras.models.load_model(artefacts["keras"], compile=False)
    assert model(np.zeros((1, 32, 32, 3), np.uint8))["class_id"].dtype == np.int64


@pytest.mark.parametrize("name", ["run [1]", "a*b?", "caf\udce9", "x\ny"])
def test_a_saved_model_is_written_and_read_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    import keras

    folder = tmp_path / name / "saved_model"
    folder.mkdir(parents=True)
    images = keras.Input((8, 8, 3), dtype="uint8")
    model = keras.Model(images, keras.layers.Dense(2)(keras.layers.Flatten()(images)))
    network = Network(model, ("cat", "dog"), Preprocessing((8, 8, 3)))
    write_artefact(FORMATS["saved_model"], network, folder, np.zeros((40, 8, 8, 3), np.uint8))
    assert open_artefact(folder).classes == network.classes


def test_the_layers_of_convnext_are_exported_to_onnx(tmp_path: Path) -> None:
    """GELU by Erfc, a grouped convolution by XLA, and layer normalization of a single pixel."""
    import keras

    pytest.importorskip("tf2onnx")
    inputs = keras.Input((2, 2, 2), dtype="uint8")
    hidden = keras.layers.Normalization(mean=[120, 130], variance=[250, 260])(inputs)
    gelu = keras.layers.Activation("gelu")(hidden)
    convolved = keras.layers.Conv2D(4, 2, groups=2)(gelu)
    outputs = keras.layers.Flatten()(keras.layers.LayerNormalization()(convolved))
    network = Network(keras.Model(inputs, outputs), tuple("abcd"), Preprocessing((2, 2, 2)))
    images = np.arange(256, dtype=np.uint8).reshape(32, 2, 2, 2)
    write_artefact(FORMATS["onnx"], network, tmp_path / "model.onnx", images)
    logits = open_artefact(tmp_path / "model.onnx").predict(images).logits
    np.testing.assert_allclose(logits, LogitsFunction(network.model)(images), rtol=0, atol=1e-5)


# How a run is measured.


def test_the_manifest_tells_the_epochs_that_were_trained_and_the_thresholds_that_evaluate_fitted(
    measured: MeasuredModel, learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    """A run that is being extended has the model of the shorter one."""
    run = Run(Path(shutil.copytree(learned_run, tmp_path / "run")))
    config = json.loads(run.config.read_text())
    run.config.write_text(json.dumps({**config, "epochs": 3000}))
    weights = run.read_result().weights_sha256
    thresholds = {"energy": -3.5, "probability": 0.4}
    report = {"unfamiliar": {"thresholds": thresholds, "usable": True}, "weights_sha256": weights}
    files.write_json(run.evaluation("test") / "report.json", report)
    fitted = dataclasses.replace(measured, thresholds=run.read_thresholds(weights))
    manifest = make_manifest(run, load_dataset(data_dir, "synthetic"), fitted, [])
    assert manifest.run.epochs == 2
    assert manifest.unfamiliar == thresholds
    assert manifest.preprocessing == Preprocessing((32, 32, 3))


@pytest.mark.parametrize(
    ("settings", "selected"),
    [({}, False), ({"keep": "best"}, True), ({"patience": 3}, True), ({"schedule": "plateau"}, True)],
)
def test_images_that_chose_the_epoch_are_recorded_as_such(settings: dict[str, Any], selected: bool) -> None:
    config: Any = dataclasses.make_dataclass("C", ["keep", "patience", "schedule"])("last", None, None)
    assert export_module.is_selected_on(dataclasses.replace(config, **settings)) == selected


def test_an_export_that_measures_on_the_test_set_is_a_look_at_it_and_fills_up_a_small_split(
    learned_run: Path, data_dir: Path, tmp_path: Path
) -> None:
    run = Run(Path(shutil.copytree(learned_run, tmp_path / "run")))
    before = len(run.read_looks())
    dataset = load_dataset(data_dir, "synthetic")
    few = dataclasses.replace(
        dataset.test, images=dataset.test.images[:120], labels=dataset.test.labels[:120]
    )
    measured = measure_model(run, run.read_config(), dataclasses.replace(dataset, test=few))
    assert [look.command for look in run.read_looks()[before:]] == ["export"]
    assert measured.accuracy.images == 120
    assert measured.reference.images.shape == (1000, 32, 32, 3)
    expected = LogitsFunction(measured.network.model)(measured.reference.images)
    np.testing.assert_allclose(measured.reference.logits, expected, atol=1e-5)


def test_the_logits_of_the_gate_are_those_of_evaluate_to_the_bit(
    measured: MeasuredModel, learned_run: Path, data_dir: Path
) -> None:
    subject = load_subject(Run(learned_run), load_dataset(data_dir, "synthetic"), "test")
    order = np.random.default_rng(0).permutation(len(subject.logits))[: len(measured.reference.logits)]
    np.testing.assert_array_equal(measured.reference.logits, subject.logits[order])


# All of it, or nothing.


def test_artefacts_of_the_same_model_stay_listed_and_those_of_another_temperature_do_not(
    quick_export: Export, measured: MeasuredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed() -> list[str]:
        manifest = read_manifest(tmp_path)
        assert manifest is not None
        return [entry.format for entry in manifest.artefacts]

    quick_export(tmp_path, "keras")
    quick_export(tmp_path, "saved_model")
    assert listed() == ["saved_model", "keras"]
    warmer = dataclasses.replace(measured.network, temperature=1.5)
    other = dataclasses.replace(measured, network=warmer)
    monkeypatch.setattr(export_module, "measure_model", lambda *arguments: other)
    quick_export(tmp_path, "keras", force=True)
    assert listed() == ["keras"]


def test_the_documents_are_whole_before_any_artefact_has_its_name(
    quick_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that watches the folder finds the artefact and the manifest that lists it."""
    found = []
    move = files._move_together

    def look(partial: Path, folder: Path, replace: Any) -> None:
        manifest = read_manifest(partial)
        assert manifest is not None
        (entry,) = manifest.artefacts
        visible = [path for path in folder.iterdir() if path != partial]
        found.append((entry.sha256 == files.sha256_file(partial / entry.path), visible))
        move(partial, folder, replace)

    monkeypatch.setattr(files, "_move_together", look)
    quick_export(tmp_path, "keras")
    assert found == [(True, [])]


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_replaced(
    quick_export: Export, tmp_path: Path
) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "model.keras").mkdir()
    (tmp_path / "model.keras" / "precious").write_text("mine")
    with pytest.raises(RunError, match=r"model\.keras is a folder; expected the file of an earlier export"):
        quick_export(tmp_path, "saved_model", "keras", force=True)
    assert list((tmp_path / "saved_model").iterdir()) == []
    assert (tmp_path / "model.keras" / "precious").read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_one_artefact_that_disagrees_leaves_none_behind_and_what_was_there_stays(
    quick_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    through = export_module.prove

    def refuse_the_second(path: Path, form: Any, *references: Reference) -> Any:
        if form.name == "saved_model":
            raise CheckError("The saved_model artefact does not agree")
        return through(path, form, *references)

    monkeypatch.setattr(export_module, "prove", refuse_the_second)
    output = tmp_path / "export"
    if force:
        output.mkdir()
        (output / "model.keras").write_text("old")
    with pytest.raises(CheckError, match="does not agree"):
        quick_export(output, "keras", "saved_model", force=force)
    assert output.exists() == force
    if force:
        assert [path.name for path in output.iterdir()] == ["model.keras"]
        assert (output / "model.keras").read_text() == "old"


def test_what_stands_there_is_refused_and_untouched(quick_export: Export, tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_text("mine")
    with pytest.raises(RunError, match=r"model\.keras already exists\. Replace it with --force"):
        quick_export(tmp_path)
    assert (tmp_path / "model.keras").read_text() == "mine"


def test_several_artefacts_that_stand_there_are_told_in_the_plural(
    quick_export: Export, tmp_path: Path
) -> None:
    (tmp_path / "model.keras").touch()
    (tmp_path / "saved_model").mkdir()
    with pytest.raises(RunError, match=r"/model\.keras, .*/saved_model already exist\. Replace them with"):
        quick_export(tmp_path, "keras", "saved_model")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            tf.errors.UnimplementedError(None, None, "no such operation here"),
            "cannot be written as keras: .*no",
        ),
        (
            tf.errors.ResourceExhaustedError(None, None, "x/variables; No space left on device"),
            r"cannot be written: No space left on device\. Free some disk space",
        ),
    ],
)
def test_a_fault_of_a_converter_is_told_as_what_it_is(
    quick_export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(artefacts_keras, "write", fail)
    with pytest.raises(CifarTrainerError, match=said) as caught:
        quick_export(tmp_path / "out")
    assert ("Free some disk space" in str(caught.value)) == ("No space" in str(error))
    assert not (tmp_path / "out").exists()


def test_what_a_killed_export_left_is_removed_by_the_next(quick_export: Export, tmp_path: Path) -> None:
    left = tmp_path / ".partial-group-killed"
    (left / "1").mkdir(parents=True)
    (left / "1" / "saved_model.pb").write_bytes(b"half")
    os.utime(left, (0, 0))
    quick_export(tmp_path)
    assert not left.exists()


#: SIGKILL when all is written, before anything has its name.
_KILLED = """
import os, signal, sys
from pathlib import Path
from cifar_trainer import files
files._move_together = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
with files.atomic_group(Path(sys.argv[1]), replace=("model.keras",)) as partial:
    (partial / "model.keras").write_text("new")
"""


def test_killed_before_the_renames_the_old_artefact_is_whole(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_text("old")
    done = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    assert done.returncode == -9
    assert (tmp_path / "model.keras").read_text() == "old"


# What is refused before TensorFlow starts.


def test_a_runs_folder_is_not_exported_into_even_with_force(
    learned_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "load_data", lambda *arguments: pytest.fail("the data was loaded"))
    run = shutil.copytree(learned_run, tmp_path / "run")
    with pytest.raises(UsageError, match=r"is a run's folder.* Choose another --output.* into .*run/export"):
        export_module.export(run, format="keras", output=run, force=True)


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
    assert "no model.keras (it contains config.json)" in message
    assert "train --resume" in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [("tflite", "litert"), ("savedmodel", "saved_model"), ("h5", "keras"), ("int8", "litert-int8")],
)
def test_the_name_of_a_format_in_other_tools_gets_a_hint(run_cli: RunCli, name: str, meant: str) -> None:
    assert f"Did you mean '{meant}'?" in refused(run_cli, "--format", name, code=2)


def test_no_format_is_wrong_usage(run_cli: RunCli, learned_run: Path) -> None:
    with pytest.raises(UsageError, match=r"--format is empty\. Choose from saved_model, keras"):
        export_module.export(learned_run, format=[])
    done = run_cli(["export", learned_run], env={"CIFAR_TRAINER_EXPORT_FORMAT": " "})
    assert (done.returncode, "--format is empty" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("recipe", "name"),
    [(recipe.name, name) for recipe in RECIPES.values() for name in recipe.refused_formats],
)
def test_a_format_in_which_a_network_cannot_pass_is_refused_by_name_before_work_begins(
    learned_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, name: str
) -> None:
    for package in FORMATS[name].packages:
        pytest.importorskip(package)
    monkeypatch.setattr(Run, "load_data", lambda *arguments: pytest.fail("the data was loaded"))
    for file in ("config.json", "model.keras", "result.json"):
        shutil.copy(learned_run / file, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "recipe": recipe}))
    with pytest.raises(UsageError, match=f"--format {name} is not available for the recipe {recipe}"):
        export_module.export(tmp_path, format=["keras", name])
    assert not (tmp_path / "export").exists()


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
    with pytest.raises(CifarTrainerError, match=r"no_such_package.*\[litert\]"):
        check_packages([form])


def test_a_folder_of_broken_links_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").symlink_to("nowhere")
    with pytest.raises(RunError, match=r"it contains saved_model.pb, a broken link"):
        open_artefact(tmp_path)


def test_a_runtime_that_hangs_is_stopped(
    measured: MeasuredModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*arguments: object, timeout: float, **options: object) -> None:
        raise subprocess.TimeoutExpired("gate", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(CheckError, match=r"did not answer within 3,600 seconds"):
        prove(tmp_path, FORMATS["onnx"], measured.reference, measured.encoded)


def test_the_clean_process_imports_nothing_from_the_current_folder(
    measured: MeasuredModel, learned_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckError, match="is not an artefact of a known format"):
        gate.prove(tmp_path / "numpy.py", FORMATS["onnx"], measured.reference, measured.encoded)


def test_a_run_of_another_model_is_refused(learned_run: Path, data_dir: Path, tmp_path: Path) -> None:
    run = Run(Path(shutil.copytree(learned_run, tmp_path / "run")))
    result = json.loads(run.result.read_text())
    run.result.write_text(json.dumps({**result, "weights_sha256": "0" * 64}))
    with pytest.raises(RunError, match="does not match its"):
        measure_model(run, run.read_config(), load_dataset(data_dir, "synthetic"))
