"""The served model: chosen, proved by known answers, replaced while it serves."""

import gc
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from command_line import run_python
from serving_server import ColourModel, running, served, until, web

from cifar_trainer import files
from cifar_trainer.artefacts.source import Source, find_source
from cifar_trainer.errors import CheckError, RunError
from cifar_trainer.images import encode_png
from cifar_trainer.run import open_run
from cifar_trainer.serving import model as model_module
from cifar_trainer.serving import server as server_module
from cifar_trainer.serving.model import (
    Explainer,
    ModelHolder,
    ServedModel,
    open_model,
)
from cifar_trainer.serving.server import serve


@pytest.fixture
def export(artefacts: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of its own with the LiteRT artefact and the manifest."""
    if "litert" not in artefacts:
        pytest.skip("ai-edge-litert is not installed")
    for path in (artefacts["litert"], artefacts["litert"].parent / "manifest.json"):
        shutil.copy2(path, tmp_path)
    return tmp_path / artefacts["litert"].name


def change_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    files.write_json(folder / "manifest.json", {**manifest, **changes})


@pytest.mark.parametrize("name", ["saved_model", "keras", "litert", "litert-float16", "litert-int8", "onnx"])
def test_the_warm_up_of_every_format_compares_answers_with_the_manifest(
    artefacts: dict[str, Path], name: str
) -> None:
    if name not in artefacts:
        pytest.skip(f"{name} cannot be made here")
    model = open_model(find_source(None, artefacts[name]), 1, 2)
    assert model.warm_up == "its answers to 8 images are those in the manifest"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("logits", [9.0] * 10, "does not give the answers in its manifest"),
        ("png", "AAAA", "damaged image"),
    ],
)
def test_an_artefact_that_does_not_fit_its_manifest_is_refused(
    export: Path, field: str, value: Any, message: str
) -> None:
    baseline = json.loads((export.parent / "manifest.json").read_text())["baseline"]
    baseline["answers"][0][field] = value
    change_manifest(export.parent, baseline=baseline)
    with pytest.raises((CheckError, RunError), match=message):
        open_model(find_source(None, export), 1, 1)


def test_an_artefact_without_a_manifest_is_served(export: Path) -> None:
    (export.parent / "manifest.json").unlink()
    assert "noise" in open_model(find_source(None, export), 1, 1).warm_up


WITHOUT_TENSORFLOW = """
import sys
from pathlib import Path
from cifar_trainer.artefacts.source import find_source
from cifar_trainer.serving.model import open_model
from cifar_trainer.serving.server import serve
for path in map(Path, sys.argv[1:]):
    open_model(find_source(None, path), 1, 2)
    print(path.suffix, *sorted({"tensorflow", "keras", "tf2onnx"} & set(sys.modules)))
"""


def test_onnx_and_litert_are_served_without_tensorflow(artefacts: dict[str, Path]) -> None:
    paths = [artefacts[name] for name in ("onnx", "litert") if name in artefacts]
    if not paths:
        pytest.skip("neither onnxruntime nor ai-edge-litert is installed")
    done = run_python(["-c", WITHOUT_TENSORFLOW, *paths], own_process=True)
    assert done.stdout.splitlines() == [path.suffix for path in paths], done.stderr


def test_what_exists_when_the_server_starts_is_never_collected_again(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(gc, "freeze", lambda: steps.append("freeze"))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: steps.append("run"))
    serve(model=export, port=0)
    assert steps == ["freeze", "run"]


def test_rubbish_in_the_model_s_place_is_refused_and_the_old_one_goes_on(
    export: Path, data_dir: Path
) -> None:
    image = np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[0]
    holder = ModelHolder(lambda: find_source(None, export), 1)
    with running(holder, watch=True, watch_seconds=0.05) as server:
        files.write_bytes(export, b"rubbish")
        assert until(lambda: server.counted("model_loads_total", outcome="refused") == 1)
        answer = web.post(f"{server.url}/predict", content=encode_png(image)).json()
        status = web.get(f"{server.url}/v1/models/colours").json()["model_version_status"][0]
    assert answer["version"] == 1
    assert "model.tflite" in status["status"]["error_message"]


def test_no_request_is_lost_when_a_new_version_is_taken_up(export: Path, data_dir: Path) -> None:
    image = encode_png(np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[0])
    holder = ModelHolder(lambda: find_source(None, export), 1)
    with running(holder, watch=True, watch_seconds=0.05) as server, httpx.Client(verify=False) as client:
        files.write_bytes(export, export.read_bytes())
        answers = []
        while not answers or (answers[-1].json()["version"] == 1 and len(answers) < 5000):
            answers.append(client.post(f"{server.url}/predict", content=image))
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].json()["version"] == 2


class Other(ColourModel):
    """A model of two classes."""

    classes = ("red", "blue", "none")


def replace_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *models: ServedModel) -> ModelHolder:
    """A holder of the first model that has looked for a new one, and found the second."""
    (tmp_path / "model").write_bytes(b"1")
    sources = iter([models[0].source, *[models[1].source] * 2])
    opened = iter(models)
    monkeypatch.setattr(model_module, "open_model", lambda *arguments: next(opened))
    holder = ModelHolder(lambda: next(sources), 1)
    files.write_bytes(tmp_path / "model", b"22")
    assert until(holder.refresh)
    return holder


def source(folder: Path, dataset: str | None = "colours") -> Source:
    manifest: Any = None
    if dataset is not None:
        manifest = SimpleNamespace(
            run=SimpleNamespace(weights_sha256="ab"), data=SimpleNamespace(name=dataset)
        )
    return Source(folder / "model", None, manifest)


@pytest.mark.parametrize(
    ("model", "dataset", "reason"),
    [
        (Other, "colours", "the classes red, blue, none"),
        (ColourModel, "animals", "the data set animals"),
        (ColourModel, None, "no manifest.json"),
    ],
)
def test_a_model_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    model: type[ColourModel],
    dataset: str | None,
    reason: str,
) -> None:
    first = served(ColourModel(), source=source(tmp_path))
    second = served(model(), source=source(tmp_path, dataset))
    if dataset is None:
        # The name of the data set is not known either; what is missing is the manifest.
        monkeypatch.setattr(Source, "dataset", "colours")
    holder = replace_by(monkeypatch, tmp_path, first, second)
    assert holder.current is first
    assert holder.failure is not None
    assert reason in holder.failure


def test_an_export_between_its_artefact_and_its_manifest_is_not_refused(export: Path) -> None:
    holder = ModelHolder(lambda: find_source(None, export), 1)
    whole = export.read_bytes()
    # A zip archive behind the model may have a comment.
    files.write_bytes(export, whole[:-2] + b"\1\0 ")
    assert not any(holder.refresh() for _ in range(3))
    assert holder.failure is None
    manifest = json.loads((export.parent / "manifest.json").read_text())
    for entry in manifest["artefacts"]:
        if entry["path"] == export.name:
            entry["sha256"] = files.sha256_file(export)
    change_manifest(export.parent, artefacts=manifest["artefacts"])
    assert until(holder.refresh)
    assert (holder.current.version, holder.failure) == (2, None)


def test_a_damaged_artefact_is_refused_once_no_export_can_be_under_way(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = ModelHolder(lambda: find_source(None, export), 1)
    monkeypatch.setattr(model_module, "_EXPORT_SECONDS", 0)
    files.write_bytes(export, export.read_bytes() + b"\0")
    assert until(holder.refresh)
    assert holder.failure is not None
    assert "SHA-256" in holder.failure
    assert not holder.refresh()


def test_a_numbered_folder_has_its_number_as_version(tmp_path: Path) -> None:
    assert [model_module.version_of(tmp_path / name) for name in ("7", "model.onnx")] == [7, 1]


def test_weights_are_explained_by_no_others(learned_run: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    weights = find_source(learned_run, None).weights_sha256
    run = open_run(learned_run)
    heat = Explainer(run, weights).explain(image, 0)
    assert heat is not None
    assert heat.shape == (32, 32)
    assert Explainer(run, "0" * 64).explain(image, 0) is None


def test_explanations_reuse_one_copy_of_the_network(
    learned_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    explainer = Explainer(open_run(learned_run), None)
    explainer.explain(np.zeros((32, 32, 3), np.uint8), 0)
    monkeypatch.setattr(keras.models, "clone_model", lambda model: 1 / 0)
    monkeypatch.setattr(keras, "Model", lambda *arguments: 1 / 0)
    assert explainer.explain(np.zeros((32, 32, 3), np.uint8), 1) is not None


def test_a_server_of_the_newest_run_stays_with_that_run(
    learned_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path | None] = []

    def noting(run: Path | None, model: Path | None, coverage: str | None) -> Source:
        asked.append(run)
        return find_source(learned_run, None)

    monkeypatch.setattr(server_module, "find_source", noting)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    serve(port=0)
    assert asked[0] is None
    assert set(asked[1:]) == {learned_run}
