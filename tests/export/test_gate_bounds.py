"""What the gate makes of answers, number by number. Needs no TensorFlow and no artefact."""

import dataclasses

import numpy as np
import pytest

from cifar_trainer.errors import CheckError
from cifar_trainer.export.formats import FORMATS
from cifar_trainer.export.gate import Proof, Reference, compare
from cifar_trainer.prediction.artefact import softmax

COUNT = 1000
CLASSES = tuple("abcdefghij")
EXACT, FLOAT16, INT8 = FORMATS["onnx"], FORMATS["litert-float16"], FORMATS["litert-int8"]

Answer = dict[str, np.ndarray]


@pytest.fixture
def reference() -> Reference:
    """A model that is right about nine pictures of ten, its top class ahead by 1 or more."""
    rng = np.random.default_rng(0)
    logits = rng.uniform(-2, 2, (COUNT, 10)).astype(np.float32)
    top = np.arange(COUNT) % 10
    logits[np.arange(COUNT), top] = 3
    labels = np.where(np.arange(COUNT) < 900, top, (top + 1) % 10).astype(np.uint8)
    return Reference(np.zeros((COUNT, 32, 32, 3), np.uint8), labels, logits, CLASSES, temperature=1.5)


def answer_of(logits: np.ndarray) -> Answer:
    """What an artefact that does not contradict itself says."""
    ids = logits.argmax(axis=1)
    names = np.array(CLASSES)[ids]
    probabilities = softmax(logits / 1.5)
    return {"logits": logits, "probabilities": probabilities, "class_id": ids, "class_name": names}


def with_other_classes(reference: Reference, rows: slice) -> Answer:
    """The reference's answers, with the two likeliest classes of some pictures exchanged."""
    logits = reference.logits.copy()
    logits[rows] = np.roll(logits[rows], 1, axis=1)
    return answer_of(logits)


def refusal(answer: Answer, reference: Reference, form: object = EXACT) -> str:
    with pytest.raises(CheckError) as refused:
        compare(answer, "at batch size 1", form, reference)
    assert "It was not put in place." in str(refused.value)
    return str(refused.value)


def test_equal_answers_pass(reference: Reference) -> None:
    proof = compare(answer_of(reference.logits), "at batch size 1", EXACT, reference)
    assert proof == Proof(COUNT, 0.0, 1.0, accuracy=0.9, reference_accuracy=0.9)


def test_a_float_artefact_may_differ_by_a_ten_thousandth(reference: Reference) -> None:
    logits = reference.logits.copy()
    logits[7, 2] += 9e-5
    assert compare(answer_of(logits), "", EXACT, reference).max_abs_difference == pytest.approx(
        9e-5, rel=0.01
    )
    logits[7, 2] += 2e-5
    message = refusal(answer_of(logits), reference)
    assert "and at most 0.0001 is allowed" in message
    # The picture that is off is the first of the worst.
    assert message.split("compared:\n")[1].split()[0] == "7"


def test_a_tie_may_fall_either_way(reference: Reference) -> None:
    tied = reference.logits.copy()
    tied[3, 5] = tied[3].max() - np.float32(5e-5)
    answered = tied.copy()
    answered[3, 5] += np.float32(1e-4)
    assert tied[3].argmax() != answered[3].argmax()
    close = dataclasses.replace(reference, logits=tied)
    assert compare(answer_of(answered), "", EXACT, close).agreement == 1 - 1 / COUNT


def test_one_other_class_is_too_many_for_a_float_artefact(reference: Reference) -> None:
    message = refusal(with_other_classes(reference, slice(5, 6)), reference)
    assert "the top class agrees for 99.90% of 1000 pictures, and at least 100.0% is asked for" in message


def test_float16_may_differ_on_one_picture_of_a_thousand(reference: Reference) -> None:
    assert compare(with_other_classes(reference, slice(5, 6)), "", FLOAT16, reference).agreement == 0.999
    assert "at least 99.9% is asked for" in refusal(
        with_other_classes(reference, slice(5, 7)), reference, FLOAT16
    )


def test_int8_may_differ_on_one_of_a_hundred_or_keep_its_accuracy(reference: Reference) -> None:
    assert compare(with_other_classes(reference, slice(0, 10)), "", INT8, reference).agreement == 0.99
    # Of 20 that differ, 10 were right and 10 become right: the accuracy is what it was.
    kept = compare(with_other_classes(reference, slice(890, 910)), "", INT8, reference)
    assert (kept.agreement, kept.accuracy) == (0.98, 0.9)
    message = refusal(with_other_classes(reference, slice(0, 11)), reference, INT8)
    assert "at least 99.0% is asked for (accuracy 88.90%, the Keras model's 90.00%)" in message


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(reference: Reference, bad: float) -> None:
    answer = answer_of(reference.logits.copy())
    answer["logits"][0, 0] = bad
    assert "logits that are not finite" in refusal(answer, reference)


def test_other_shapes_are_refused(reference: Reference) -> None:
    answer = answer_of(reference.logits)
    answer["logits"] = answer["logits"][:, :9]
    assert "gave logits of shape (1000, 9); expected (1000, 10)" in refusal(answer, reference)


def contradictory(output: str, reference: Reference) -> Answer:
    answer = {name: value.copy() for name, value in answer_of(reference.logits).items()}
    swapped = {"a": "b", "b": "a"}
    if output == "probabilities":  # The temperature forgotten.
        answer["probabilities"] = softmax(reference.logits)
    elif output == "class_id":
        answer["class_id"][4] = 9
        answer["class_name"][4] = CLASSES[9]
    else:
        answer["class_name"] = np.array([swapped.get(name, name) for name in answer["class_name"]])
    return answer


@pytest.mark.parametrize(
    ("output", "what", "pictures"),
    [
        ("probabilities", "from the softmax of its logits", 1000),
        ("class_id", "its class_id is not where its logits are largest", 1),
        ("class_name", "its class_name is not the name of its class_id", 200),
    ],
)
def test_outputs_that_contradict_each_other_are_refused_with_the_pictures(
    reference: Reference, output: str, what: str, pictures: int
) -> None:
    message = refusal(contradictory(output, reference), reference)
    assert "contradicts itself" in message
    assert what in message
    assert f"for {pictures:,} of 1,000 pictures" in message
    [first, *others] = message.split("compared:\n")[1].splitlines()
    assert len(others) == 4
    if output == "class_id":
        assert first.split()[0] == "4"
    if output == "class_name":
        assert "Keras says a (3.000), the artefact b (3.000)" in first
