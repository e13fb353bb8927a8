"""The served model: chosen, proved by known answers, replaced while it serves."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from command_line import run_python
from serving_server import running, until

from cifar_trainer import files
from cifar_trainer.artefacts.source import Source, find_source
from cifar_trainer.errors import CheckError, RunError
from cifar_trainer.images import encode_png
from cifar_trainer.serving.model import ModelHolder, open_model
from cifar_trainer.serving.server import serve
from cifar_trainer.serving.settings import Settings


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


def test_the_warm_up_compares_answers_with_the_manifest(export: Path) -> None:
    model = open_model(find_source(None, export), 1, 4)
    assert model.warm_up == "its answers to 8 images are those in the manifest"


@pytest.mark.parametrize("name", ["saved_model", "keras", "litert-float16", "litert-int8", "onnx"])
def test_every_format_passes_its_warm_up(artefacts: dict[str, Path], name: str) -> None:
    if name not in artefacts:
        pytest.skip(f"{name} cannot be made here")
    assert "manifest" in open_model(find_source(None, artefacts[name]), 1, 2).warm_up


def test_a_model_that_answers_otherwise_is_refused(export: Path) -> None:
    baseline = json.loads((export.parent / "manifest.json").read_text())["baseline"]
    baseline["answers"][0]["logits"][0] += 1
    change_manifest(export.parent, baseline=baseline)
    with pytest.raises(CheckError, match="does not give the answers in its manifest"):
        open_model(find_source(None, export), 1, 1)


def test_an_artefact_that_is_not_the_manifest_s_is_refused(export: Path) -> None:
    with open(export, "ab") as file:
        file.write(b"\0")
    with pytest.raises(RunError, match="SHA-256"):
        open_model(find_source(None, export), 1, 1)


def test_an_artefact_without_a_manifest_is_served(export: Path) -> None:
    (export.parent / "manifest.json").unlink()
    assert "noise" in open_model(find_source(None, export), 1, 1).warm_up


def test_a_run_is_served_by_its_fastest_export(
    learned_run: Path, artefacts: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(learned_run, run)
    shutil.copytree(artefacts["saved_model"].parent, run / "export", dirs_exist_ok=True)
    best = next(name for name in ("onnx", "litert", "saved_model") if name in artefacts)
    assert find_source(run, None).path == run / "export" / artefacts[best].name


def test_a_run_without_an_export_is_served_by_its_own_model(learned_run: Path) -> None:
    assert find_source(learned_run, None).path == learned_run / "model.keras"


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
    serve(model=export, settings=Settings("cifar10", port=0))
    assert steps == ["freeze", "run"]


def test_a_new_version_is_taken_up(export: Path) -> None:
    holder = ModelHolder(lambda: find_source(None, export), 1)
    files.write_bytes(export, export.read_bytes())
    assert until(holder.refresh)
    assert (holder.current.version, holder.failure) == (2, None)


def test_rubbish_in_the_model_s_place_is_refused_and_the_old_one_goes_on(
    export: Path, data_dir: Path
) -> None:
    image = np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[0]
    holder = ModelHolder(lambda: find_source(None, export), 1)
    with running(holder, watch=True, watch_seconds=0.05) as server:
        files.write_bytes(export, b"rubbish")
        assert until(lambda: server.counted("model_loads_total", outcome="refused") == 1)
        answer = httpx.post(f"{server.url}/predict", content=encode_png(image)).json()
        status = httpx.get(f"{server.url}/v1/models/colours").json()["model_version_status"][0]
    assert answer["version"] == 1
    assert "model.tflite" in status["status"]["error_message"]


def test_no_request_is_lost_when_a_new_version_is_taken_up(export: Path, data_dir: Path) -> None:
    image = encode_png(np.load(data_dir / "synthetic" / "test_images.npy", mmap_mode="r")[0])
    holder = ModelHolder(lambda: find_source(None, export), 1)
    with running(holder, watch=True, watch_seconds=0.05) as server, httpx.Client() as client:
        files.write_bytes(export, export.read_bytes())
        answers = []
        while not answers or (answers[-1].json()["version"] == 1 and len(answers) < 5000):
            answers.append(client.post(f"{server.url}/predict", content=image))
    assert {answer.status_code for answer in answers} == {200}
    assert answers[-1].json()["version"] == 2


def test_a_source_without_a_manifest_has_the_name_cifar10(tmp_path: Path) -> None:
    assert Source(tmp_path, None, None).dataset == "cifar10"
