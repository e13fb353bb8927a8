"""Artefacts that were broken on purpose do not pass the gate, and leave nothing behind."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from cifar_trainer.artefacts import decoding, export
from cifar_trainer.artefacts.export import ExportReport
from cifar_trainer.artefacts.formats import FORMATS, Format, softmax, write_artefact
from cifar_trainer.artefacts.gate import Reference, compare
from cifar_trainer.errors import CheckError
from cifar_trainer.model import Network, weights_sha256
from cifar_trainer.recipes.tutorial import TUTORIAL
from cifar_trainer.training.assembly import build_model

Breaking = Callable[[Format, Network, Path, np.ndarray], None]


def available(name: str) -> Format:
    form = FORMATS[name]
    for package in form.packages:
        pytest.importorskip(package)
    return form


def flip_a_bit(form: Format, network: Network, path: Path, examples: np.ndarray) -> None:
    """Write it, then flip the sign of the largest weight of the last layer where it lies in the file."""
    write_artefact(form, network, path, examples)
    kernel = next(w for w in network.model.weights if w.path.endswith("logits/kernel")).numpy()
    whole = kernel.tobytes()
    files = [p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file() and not p.is_symlink()]
    (holder,) = [p for p in files if whole in p.read_bytes()]
    content = bytearray(holder.read_bytes())
    at = content.index(whole) + 4 * int(np.abs(kernel).argmax())
    content[at + 3] ^= 0x80
    holder.write_bytes(content)


def leave_out_preprocessing(form: Format, network: Network, path: Path, examples: np.ndarray) -> None:
    """Write the same weights behind an input that is not scaled to 0 to 1."""
    config = network.model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "Rescaling":
            layer["config"]["scale"] = 1.0
    unscaled = type(network.model).from_config(config)
    unscaled.set_weights(network.model.get_weights())
    write_artefact(form, dataclasses.replace(network, model=unscaled), path, examples)


def permute_names(form: Format, network: Network, path: Path, examples: np.ndarray) -> None:
    """Write the right numbers under the wrong names."""
    write_artefact(form, dataclasses.replace(network, classes=network.classes[::-1]), path, examples)


def permute_logits(form: Format, network: Network, path: Path, examples: np.ndarray) -> None:
    """Write a last layer whose outputs have changed places."""
    twin = keras.models.clone_model(network.model)
    weights = network.model.get_weights()
    twin.set_weights([*weights[:-2], weights[-2][:, ::-1], weights[-1][::-1]])
    write_artefact(form, dataclasses.replace(network, model=twin), path, examples)


@pytest.mark.parametrize(
    ("name", "broken", "said"),
    [
        ("onnx", flip_a_bit, "does not agree with the Keras model"),
        # TensorFlow sees it by a checksum of its own, and does not load the file.
        ("saved_model", flip_a_bit, "could not be used in a clean process"),
        ("onnx", leave_out_preprocessing, "does not agree with the Keras model"),
        ("onnx", permute_names, "names the classes"),
        ("onnx", permute_logits, "does not agree with the Keras model"),
    ],
    ids=lambda value: getattr(value, "__name__", value if value in FORMATS else ""),
)
def test_a_broken_artefact_is_refused_and_what_stood_there_stays(
    gated_export: Callable[..., ExportReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, broken: Breaking, said: str,
) -> None:  # fmt: skip
    form = available(name)
    before = tmp_path / form.file_name
    if form.is_folder:
        before.mkdir()
        (before / "saved_model.pb").write_bytes(b"an earlier export")
    else:
        before.write_bytes(b"an earlier export")
    monkeypatch.setattr(export, "write_artefact", broken)
    with pytest.raises(CheckError, match=said) as caught:
        gated_export(tmp_path, name, force=True)
    if "does not agree" in str(caught.value):
        assert "The worst images" in str(caught.value)
        assert "Keras says" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [form.file_name]
    stood = before / "saved_model.pb" if form.is_folder else before
    assert stood.read_bytes() == b"an earlier export"


def test_a_saved_model_that_decodes_one_kind_of_file_wrongly_is_refused(
    gated_export: Callable[..., ExportReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The opaque pixels of a PNG below 8 bits are taken for nearly transparent ones."""
    monkeypatch.setattr(decoding, "_has_transparency", lambda png: tf.constant(True))
    with pytest.raises(CheckError, match=r"does not agree with the Keras model from image files \(PNG,"):
        gated_export(tmp_path, "saved_model")


def test_the_effect_of_rounding_is_measured_and_leaves_the_weights_alone(
    measured: export.MeasuredModel,
) -> None:
    assert 1e-7 < measured.reference.rounding < 1e-5
    assert weights_sha256(measured.network.model) == measured.weights_sha256


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_model_that_was_trained_in_mixed_precision_is_exported_in_float32(
    trained_run: Path, data_dir: Path, tmp_path: Path, precision: str,
    replace_model: Callable[[Path, keras.Model], None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Its weights are those of a float32 model; what runs elsewhere is held to Keras's float32."""
    import shutil

    available("onnx")
    monkeypatch.setattr(export, "FILES", 1)
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    keras.utils.set_random_seed(1)
    replace_model(run, build_model(TUTORIAL, precision, (32, 32, 3), 10))
    report = export.export(run, format=["onnx"], output=tmp_path / "out", data_dir=data_dir)
    (exported,) = report.exports
    assert exported.proof.agreement == 1
    assert exported.proof.max_abs_difference < 1e-4


# What the gate makes of answers, without any runtime.


@pytest.fixture
def reference() -> Reference:
    draw = np.random.default_rng(0)
    return Reference(
        images=np.zeros((1000, 32, 32, 3), np.uint8),
        labels=draw.integers(0, 10, 1000).astype(np.uint8),
        logits=draw.normal(0, 3, (1000, 10)).astype(np.float32),
        classes=tuple("abcdefghij"),
        temperature=2.0,
    )


def answer(reference: Reference, logits: np.ndarray) -> dict[str, np.ndarray]:
    ids = logits.argmax(axis=1)
    return {
        "logits": logits,
        "probabilities": softmax(logits / reference.temperature),
        "class_id": ids,
        "class_name": np.array(reference.classes)[ids],
    }


def test_what_agrees_passes_with_its_figures(reference: Reference) -> None:
    proof = compare(answer(reference, reference.logits + 5e-5), "", FORMATS["onnx"], reference)
    assert proof.max_abs_difference == pytest.approx(5e-5, rel=0.1)
    assert proof.agreement == 1
    assert proof.accuracy == proof.reference_accuracy


def test_one_logit_of_ten_thousand_beyond_the_bound_is_enough(reference: Reference) -> None:
    logits = reference.logits.copy()
    logits[777, 3] += 2e-4
    with pytest.raises(CheckError, match=r"a logit differs by 0\.0002, expected at most 0\.0001") as caught:
        compare(answer(reference, logits), "", FORMATS["onnx"], reference)
    assert "    777  " in str(caught.value), "the picture is named"


@pytest.mark.parametrize(("rounding", "difference", "passes"), [
    (1e-6, 9e-5, True), (1e-6, 2e-4, False), (1e-3, 9e-3, True), (1e-3, 2e-2, False),
])  # fmt: skip
def test_a_network_that_amplifies_rounding_may_differ_more(
    reference: Reference, rounding: float, difference: float, passes: bool
) -> None:
    amplifying = dataclasses.replace(reference, rounding=rounding)
    given = reference.logits.copy()
    given[777, 3] += difference
    if passes:
        compare(answer(reference, given), "", FORMATS["onnx"], amplifying)
    else:
        with pytest.raises(CheckError, match=f"a logit differs by {difference:g}"):
            compare(answer(reference, given), "", FORMATS["onnx"], amplifying)


def test_a_tie_may_fall_either_way(reference: Reference) -> None:
    tied = reference.logits.copy()
    winner, second = tied[3].argsort()[[-1, -2]]
    tied[3, second] = tied[3, winner] - np.float32(5e-5)
    logits = tied.copy()
    logits[3, second] += np.float32(9e-5)
    assert logits[3].argmax() == second
    close = dataclasses.replace(reference, logits=tied)
    assert compare(answer(close, logits), "", FORMATS["onnx"], close).agreement == 0.999


@pytest.mark.parametrize(("wrong", "passes"), [(1, True), (2, False)])
def test_float16_may_differ_on_one_picture_of_a_thousand(
    reference: Reference, wrong: int, passes: bool
) -> None:
    logits = reference.logits.copy()
    logits[:wrong] = -logits[:wrong]
    given = answer(reference, logits)
    if passes:
        assert compare(given, "", FORMATS["litert-float16"], reference).agreement == 0.999
    else:
        with pytest.raises(CheckError, match=r"99\.80% of 1,000 images"):
            compare(given, "", FORMATS["litert-float16"], reference)


def with_accuracy(reference: Reference, share: float) -> Reference:
    """The first `share` of the images get the labels that the Keras model says, the others wrong ones."""
    said = reference.logits.argmax(axis=1)
    right = np.arange(len(said)) < share * len(said)
    labels = np.where(right, said, (said + 1) % len(reference.classes)).astype(np.uint8)
    return dataclasses.replace(reference, labels=labels)


def confuse_wrong_images(reference: Reference, count: int) -> np.ndarray:
    """Logits with another wrong answer to some images that the Keras model has wrong."""
    logits = reference.logits.copy()
    for i in np.flatnonzero(logits.argmax(axis=1) != reference.labels)[:count]:
        other = next(c for c in range(10) if c not in (logits[i].argmax(), reference.labels[i]))
        logits[i, other] = logits[i].max() + 1
    return logits


def test_int8_may_differ_more_if_the_accuracy_stays_within_a_point(reference: Reference) -> None:
    """Thirty pictures that were wrong before are wrong in another way."""
    learned = with_accuracy(reference, 0.7)
    given = answer(learned, confuse_wrong_images(learned, 30))
    assert compare(given, "", FORMATS["litert-int8"], learned).agreement == 0.97
    spoilt = learned.logits.copy()
    spoilt[:30] *= -1
    with pytest.raises(CheckError, match=r"expected at least 99\.0%"):
        compare(answer(learned, spoilt), "", FORMATS["litert-int8"], learned)


@pytest.mark.parametrize(("accuracy", "passes"), [(0.11, False), (0.14, True)])
def test_the_accuracy_of_int8_counts_only_if_it_is_above_chance(
    reference: Reference, accuracy: float, passes: bool
) -> None:
    """With 1,000 images of ten classes, 14 % is above chance and 11 % may be luck."""
    guessing = with_accuracy(reference, accuracy)
    given = answer(guessing, confuse_wrong_images(guessing, 460))
    if passes:
        assert compare(given, "", FORMATS["litert-int8"], guessing).agreement == 0.54
    else:
        with pytest.raises(CheckError, match=r"agrees for 54\.00%.*11\.00%, not clearly above chance"):
            compare(given, "", FORMATS["litert-int8"], guessing)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("probabilities", lambda value: value[:, ::-1], "probabilities differ .* from the softmax"),
        ("class_id", lambda value: (value + 1) % 10, "class_id is not that of the largest logit"),
        ("class_name", lambda value: value[::-1], "class_name is not the name of its class_id"),
        ("logits", lambda value: value * np.nan, "not finite"),
        ("logits", lambda value: value[:, :9], "of shape"),
    ],
)
def test_outputs_that_contradict_each_other_are_refused(
    reference: Reference, name: str, change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    given = answer(reference, reference.logits)
    given[name] = change(given[name])
    with pytest.raises(CheckError, match=said) as caught:
        compare(given, "", FORMATS["onnx"], reference)
    if name != "logits":
        assert "Keras says" in str(caught.value), "the pictures are named"
