"""The one table of formats: what is fed from it agrees with it."""

import dataclasses
from pathlib import Path

import pytest

from cifar_trainer.artefacts import formats
from cifar_trainer.artefacts.formats import FORMATS, open_artefact
from cifar_trainer.errors import CifarTrainerError, RunError

DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_docs_list_each_format_with_its_file(form: formats.Format) -> None:
    name = f"{form.file_name}/" if form.is_folder else form.file_name
    assert f"| `{form.name}` | `{name}` |" in DOCS.read_text()


def test_what_an_artefact_can_be_is_told_from_the_table() -> None:
    assert formats.expected_artefacts() == "a SavedModel folder, or a .keras, .tflite or .onnx file"


def test_the_optional_packages_are_told_by_their_names_on_the_index() -> None:
    assert formats.distributions() == ("ai-edge-litert", "onnx", "onnxruntime", "tf2onnx")


def test_no_two_formats_share_an_alias_or_a_file() -> None:
    names = [name for form in FORMATS.values() for name in (form.name, form.file_name, *form.aliases)]
    repeated = {name for name in names if names.count(name) > 1}
    assert repeated == {"saved_model"}


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"PK\x03\x04 but no more", "model.keras", "not an artefact of a known format"),
        (b"\x00\x00\x00\x00TFL3 cut", "model.tflite", "not a complete LiteRT export"),
        (b"not a graph", "model.onnx", "not a complete ONNX export"),
    ],
)
def test_a_damaged_artefact_is_named(tmp_path: Path, content: bytes, name: str, said: str) -> None:
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxruntime")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=f"{name} is {said}"):
        open_artefact(tmp_path / name)


def test_an_artefact_whose_runtime_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = dataclasses.replace(FORMATS["onnx"], runtime=("no_such_package",))
    monkeypatch.setitem(FORMATS, "onnx", form)
    (tmp_path / "a.onnx").write_bytes(b"graph")
    with pytest.raises(CifarTrainerError, match=r"a\.onnx needs no_such_package.*\[onnx\]"):
        open_artefact(tmp_path / "a.onnx")
