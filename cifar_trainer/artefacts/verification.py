"""The gate: no artefact is put in place before its own runtime has given the Keras model's answers.

An artefact is loaded in a clean process (`artefacts.probe`) and fed real images one by
one and in batches, and as image files of every kind where it decodes them itself. Its
answers are compared with those of the Keras model.
"""

import dataclasses
import io
import os
import subprocess
from pathlib import Path

import numpy as np

import cifar_trainer
from cifar_trainer.artefacts.encodings import KINDS
from cifar_trainer.artefacts.formats import Bound, Format, softmax
from cifar_trainer.artefacts.probe import pack_files
from cifar_trainer.errors import CheckError
from cifar_trainer.process import module_command

#: One by one, as an application asks, and by a number that divides nothing.
BATCH_SIZES = (1, 37)
#: The most images. So many, since a share as small as float16's cannot be told from chance on 1,000.
IMAGES = 10_000
#: Where a split has fewer, training images are added.
LEAST_IMAGES = 1_000
#: Of probabilities against softmax(logits / temperature) of the same artefact.
_PROBABILITY_TOLERANCE = 1e-4
_WORST_SHOWN = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Images, and what the Keras model says about them.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: uint8 [N].
        logits: float32 [N, classes].
        classes: the names, by class_id.
        temperature: see `Network`.
        files: N image files whose decoded pixels are `images`; may be empty.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    classes: tuple[str, ...]
    temperature: float
    files: tuple[bytes, ...] = ()

    def first(self, count: int) -> "Reference":
        """The same of the first `count` images."""
        return dataclasses.replace(
            self, images=self.images[:count], labels=self.labels[:count], logits=self.logits[:count]
        )


@dataclasses.dataclass(frozen=True)
class Proof:
    """How an artefact compares with the Keras model.

    Attributes:
        images: images compared.
        max_abs_difference: the largest of any logit, at any batch size.
        agreement: share of images with the same top class, at the worse batch size.
        accuracy: share of images that the artefact classifies rightly.
        reference_accuracy: that of the Keras model on the same images.
    """

    images: int
    max_abs_difference: float
    agreement: float
    accuracy: float
    reference_accuracy: float


def prove(artefact: Path, form: Format, reference: Reference, encoded: Reference) -> Proof:
    """Compare an artefact with the Keras model, in a clean process.

    Args:
        artefact: where it lies.
        form: its format.
        reference: images for every format.
        encoded: images with their files, for a format that decodes them itself.

    Raises:
        CheckError: it cannot be loaded, its outputs contradict each other, or it is
            further from the Keras model than its format may be.
    """
    answers = _ask(artefact, form, reference, encoded)
    if tuple(answers["classes"]) != reference.classes:
        raise CheckError(
            f"The {form.name} artefact names the classes {', '.join(answers['classes'])}; "
            f"expected {', '.join(reference.classes)}. It was not put in place."
        )
    ways = {str(size): (f"at batch size {size}", reference) for size in BATCH_SIZES}
    if form.takes_bytes:
        ways["encoded"] = (f"from image files ({', '.join(KINDS)}, in turn)", encoded)
    proofs = [
        compare({name: answers[f"{name}_{key}"] for name in _OUTPUTS}, way, form, against)
        for key, (way, against) in ways.items()
    ]
    return dataclasses.replace(
        proofs[0],
        max_abs_difference=max(proof.max_abs_difference for proof in proofs),
        agreement=min(proof.agreement for proof in proofs),
    )


_OUTPUTS = ("logits", "probabilities", "class_id", "class_name")


def _ask(artefact: Path, form: Format, reference: Reference, encoded: Reference) -> dict[str, np.ndarray]:
    sent = io.BytesIO()
    np.savez(sent, allow_pickle=False, images=reference.images, **pack_files(encoded.files))
    package_root = str(Path(cifar_trainer.__file__).parent.parent)
    environment = {
        **os.environ,
        # Correct answers are the question here; a GPU's TF32 would blur them.
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")])),
    }
    done = subprocess.run(
        module_command("cifar_trainer.artefacts.probe", artefact, *BATCH_SIZES),
        input=sent.getbuffer(),
        capture_output=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise CheckError(
            f"The {form.name} artefact could not be used in a clean process (exit code {done.returncode}); "
            f"it was not put in place. It said: {' '.join(said[-3:]) or 'nothing'}"
        )
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return dict(arrays)


def compare(answer: dict[str, np.ndarray], way: str, form: Format, whole: Reference) -> Proof:
    """Compare an artefact's answers with the Keras model's.

    Args:
        answer: `logits`, `probabilities`, `class_id`, `class_name` of the first images.
        way: how the artefact was asked, for the message.
        form: the format, whose bound holds.
        whole: what the Keras model says of these images, and maybe of more.

    Raises:
        CheckError: they are too far apart, or the outputs contradict each other.
    """
    reference = whole.first(len(answer["class_id"]))
    _check_shapes(answer, form, len(reference.labels), len(reference.classes))
    differences = np.abs(answer["logits"] - reference.logits).max(axis=1)
    _check_consistency(answer, differences, form, reference)
    expected = reference.logits.argmax(axis=1)
    chosen = answer["class_id"]
    differs = chosen != expected
    rows = np.arange(len(expected))
    margin = reference.logits[rows, expected] - reference.logits[rows, chosen]
    tied = margin <= 2 * (form.bound.difference or 0.0)
    proof = Proof(
        images=len(expected),
        max_abs_difference=float(differences.max()),
        agreement=_share(~differs),
        accuracy=_share(chosen == reference.labels),
        reference_accuracy=_share(expected == reference.labels),
    )
    broken = _broken_bounds(proof, _share(~differs | tied), form.bound)
    if broken:
        raise CheckError(
            f"The {form.name} artefact does not agree with the Keras model {way}: "
            f"{'; '.join(broken)}. It was not put in place.\n"
            + "\n".join(_describe_worst(differences, differs, answer, reference))
        )
    return proof


def _share(holds: np.ndarray) -> float:
    # A quotient of whole numbers: 999 of 1,000 is exactly what is written 0.999.
    return int(holds.sum()) / len(holds)


def _check_shapes(answer: dict[str, np.ndarray], form: Format, count: int, classes: int) -> None:
    expected = {
        "logits": (count, classes),
        "probabilities": (count, classes),
        "class_id": (count,),
        "class_name": (count,),
    }
    for name, shape in expected.items():
        if answer[name].shape != shape:
            raise CheckError(
                f"The {form.name} artefact gave {name} of shape {answer[name].shape}; expected {shape}. "
                "It was not put in place."
            )
    if not np.isfinite(answer["logits"]).all():
        raise CheckError(
            f"The {form.name} artefact gave logits that are not finite. It was not put in place."
        )


def _check_consistency(
    answer: dict[str, np.ndarray], differences: np.ndarray, form: Format, reference: Reference
) -> None:
    softened = softmax(answer["logits"] / reference.temperature)
    off = np.abs(answer["probabilities"] - softened).max(axis=1)
    chosen = answer["logits"][np.arange(len(off)), answer["class_id"]]
    contradictions = {
        f"its probabilities are {off.max():.3g} from the softmax of its logits": (
            ~(off <= _PROBABILITY_TOLERANCE)
        ),
        "its class_id is not where its logits are largest": answer["logits"].max(axis=1) > chosen,
        "its class_name is not the name of its class_id": answer["class_name"]
        != np.array(reference.classes)[answer["class_id"]],
    }
    for what, where in contradictions.items():
        if where.any():
            raise CheckError(
                f"The {form.name} artefact contradicts itself: {what}, for {where.sum():,} of {len(where):,} "
                "images. It was not put in place.\n"
                + "\n".join(_describe_worst(differences, where, answer, reference))
            )


def _broken_bounds(proof: Proof, agreement_but_ties: float, bound: Bound) -> list[str]:
    broken = []
    if bound.difference is not None and not proof.max_abs_difference <= bound.difference:
        broken.append(
            f"a logit differs by {proof.max_abs_difference:.3g}, and at most {bound.difference:g} is allowed"
        )
    if agreement_but_ties < bound.agreement:
        lost = proof.reference_accuracy - proof.accuracy
        if bound.accuracy_loss is None or abs(lost) > bound.accuracy_loss:
            broken.append(
                f"the top class agrees for {agreement_but_ties:.2%} of {proof.images} images, "
                f"and at least {bound.agreement:.1%} is asked for (accuracy {proof.accuracy:.2%}, "
                f"the Keras model's {proof.reference_accuracy:.2%})"
            )
    return broken


def _describe_worst(
    differences: np.ndarray, wrong: np.ndarray, answer: dict[str, np.ndarray], reference: Reference
) -> list[str]:
    # Images with a wrong answer first, then by the difference.
    worst = np.lexsort((-differences, ~wrong))[:_WORST_SHOWN]
    lines = ["The worst images, by their place among those compared:"]
    for i in worst:
        expected, chosen = reference.logits[i].argmax(), answer["class_id"][i]
        lines.append(
            f"  {i:5d}  {reference.classes[reference.labels[i]]}: "
            f"Keras says {reference.classes[expected]} ({reference.logits[i][expected]:.3f}), "
            f"the artefact {answer['class_name'][i]} ({answer['logits'][i][chosen]:.3f}); "
            f"largest difference {differences[i]:.3g}"
        )
    return lines
