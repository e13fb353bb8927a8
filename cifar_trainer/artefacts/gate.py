"""The gate: verifies an artefact against the Keras model before it is published.

`prove` loads the artefact in a clean process. It classifies real images one at a time and in batches, and
image files of every kind if the artefact decodes files itself. The clean process is this module:

    python -m cifar_trainer.artefacts.gate ARTEFACT BATCH_SIZE...

It reads an .npz of `images` and packed files from stdin, and writes an .npz of answers to stdout.
"""

import dataclasses
import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import cifar_trainer
from cifar_trainer.artefacts.formats import Bound, Format, Predictions, TakesBytes, open_artefact, softmax
from cifar_trainer.errors import CheckError, CifarTrainerError
from cifar_trainer.process import module_command

#: Batch size 1, as most clients use, and an odd size.
BATCH_SIZES = (1, 37)
#: Maximum number of images. With only 1,000, an error rate as small as that of float16 would be lost in
#: noise.
IMAGES = 10_000
#: Minimum number of images; a smaller split is supplemented with training images.
MIN_IMAGES = 1_000
#: Maximum number of image files.
FILES = 1_000
#: Allowed difference between the probabilities and softmax(logits / temperature) of an artefact.
_PROBABILITY_TOLERANCE = 1e-4
#: Allowed difference of logits, as a multiple of `Reference.rounding`.
_ROUNDINGS = 10
_WORST_SHOWN = 5
#: Timeout for the answers of a runtime.
_SECONDS = 3600


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Images, and the Keras model's answers to them.

    Attributes:
        images: uint8 [N, H, W, C].
        labels: uint8 or uint16 [N].
        logits: float32 [N, classes].
        classes: class names, by class_id.
        temperature: see `model.Network`.
        files: N image files whose decoded pixels are `images`; may be empty.
        rounding: largest difference of a logit if each weight is moved to a neighbouring float32 number.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    classes: tuple[str, ...]
    temperature: float
    files: tuple[bytes, ...] = ()
    rounding: float = 0.0

    def first(self, count: int) -> "Reference":
        """The reference for the first `count` images."""
        return dataclasses.replace(
            self, images=self.images[:count], labels=self.labels[:count], logits=self.logits[:count]
        )


@dataclasses.dataclass(frozen=True)
class Proof:
    """The comparison of an artefact with the Keras model.

    Attributes:
        images: number of images compared.
        max_abs_difference: largest difference of any logit, at any batch size.
        agreement: share of images with the same top class, at the worst batch size.
        accuracy: share of images that the artefact classifies correctly.
        reference_accuracy: the Keras model's on the same images.
    """

    images: int
    max_abs_difference: float
    agreement: float
    accuracy: float
    reference_accuracy: float


# Image files of every kind.


def _raw_png(pixels: np.ndarray, *, transparent: bytes = b"", interlaced: bool = False) -> bytes:
    """Encode a PNG of 8 or 16 bits per channel, including kinds that Pillow cannot write (ISO/IEC 15948)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, channels = pixels.shape
    bits, colour = pixels.dtype.itemsize * 8, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    # First column and row, and the steps, of each pass of Adam7.
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    passes = adam7 if interlaced else ((0, 0, 1, 1),)
    rows = (row for x, y, dx, dy in passes for row in pixels[y::dy, x::dx] if row.size)
    content = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced)
    key = chunk(b"tRNS", transparent) if transparent else b""
    data = chunk(b"IDAT", zlib.compress(content))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + data + chunk(b"IEND", b"")


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _png(image: Image.Image, **options: object) -> bytes:
    return _saved(image, "png", **options)


def _jpeg(image: Image.Image, **options: object) -> bytes:
    return _saved(image, "jpeg", quality=95, **options)


def _with_alpha(image: Image.Image) -> Image.Image:
    """Add alpha that fades from left to right."""
    ramp = np.linspace(255, 0, image.width).round().astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (image.height, 1))))
    return image


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)


def _deep(image: Image.Image) -> np.ndarray:
    """Pixels with 16 bits per channel, whose lower 8 bits differ from the upper ones."""
    return _array(image).astype(np.uint16) * 257 ^ 0x55


def _first_pixel(pixels: np.ndarray) -> bytes:
    return bytes(pixels[0, 0].astype(">u2").data)


#: Encoders of an RGB image, by kind of file. Bits are per channel.
KINDS: dict[str, Callable[[Image.Image], bytes]] = {
    "PNG": _png,
    "PNG of another size": lambda i: _png(i.resize((i.width * 3 // 2, i.height * 2))),
    "interlaced PNG": lambda i: _raw_png(_array(i), interlaced=True),
    "PNG, one colour transparent": lambda i: _raw_png(_array(i), transparent=_first_pixel(_array(i))),
    "grey PNG": lambda i: _png(i.convert("L")),
    "PNG of 1 bit": lambda i: _png(i.convert("1")),
    "palette of 4 colours": lambda i: _png(i.quantize(4)),
    "palette of 16 colours": lambda i: _png(i.quantize(16)),
    "palette of 16 colours, one transparent": lambda i: _png(i.quantize(16), transparency=0),
    "palette of 256 colours": lambda i: _png(i.quantize(256)),
    "palette of 256 colours, one transparent": lambda i: _png(i.quantize(256), transparency=0),
    "PNG with alpha": lambda i: _png(_with_alpha(i)),
    "grey PNG with alpha": lambda i: _png(_with_alpha(i.convert("L"))),
    "grey PNG of 16 bits": lambda i: _raw_png(_deep(i.convert("L"))),
    "PNG of 16 bits": lambda i: _raw_png(_deep(i)),
    "PNG of 16 bits, one colour transparent": lambda i: _raw_png(
        _deep(i), transparent=_first_pixel(_deep(i))
    ),
    "PNG of 16 bits with alpha": lambda i: _raw_png(_deep(_with_alpha(i))),
    "grey PNG of 16 bits with alpha": lambda i: _raw_png(_deep(_with_alpha(i.convert("L")))),
    "JPEG": _jpeg,
    "grey JPEG": lambda i: _jpeg(i.convert("L")),
    "progressive JPEG": lambda i: _jpeg(i, progressive=True),
    "CMYK JPEG": lambda i: _jpeg(i.convert("CMYK")),
}


def encode_in_turn(images: np.ndarray) -> list[bytes]:
    """Encode each image as the next of `KINDS`, starting over after the last.

    Args:
        images: uint8 [N, H, W, C] with one or three channels.
    """
    kinds = list(KINDS.values())
    shown = images[..., 0] if images.shape[-1] == 1 else images
    return [kinds[i % len(kinds)](Image.fromarray(image).convert("RGB")) for i, image in enumerate(shown)]


# The clean process.


def prove(artefact: Path, form: Format, reference: Reference, encoded: Reference) -> Proof:
    """Compare an artefact with the Keras model in a clean process.

    Args:
        artefact: path of the artefact.
        form: its format.
        reference: images for all formats.
        encoded: image files for formats that decode them.

    Raises:
        CheckError: it cannot be loaded, its outputs contradict each other, or it differs from the Keras
            model by more than its format allows.
    """
    answers = _ask(artefact, form, reference, encoded)
    if tuple(answers["classes"]) != reference.classes:
        raise _refusal(
            form,
            f"names the classes {', '.join(answers['classes'])}; expected {', '.join(reference.classes)}",
        )
    asked = {str(size): (f"at batch size {size}", reference) for size in BATCH_SIZES}
    if form.takes_bytes:
        asked["encoded"] = (f"from image files ({', '.join(KINDS)}, in turn)", encoded)
    proofs = [
        compare({name: answers[f"{name}_{key}"] for name in _OUTPUTS}, how, form, against)
        for key, (how, against) in asked.items()
    ]
    return dataclasses.replace(
        proofs[0],
        max_abs_difference=max(proof.max_abs_difference for proof in proofs),
        agreement=min(proof.agreement for proof in proofs),
    )


_OUTPUTS = ("logits", "probabilities", "class_id", "class_name")


def _refusal(form: Format, what: str, details: Sequence[str] = ()) -> CheckError:
    return CheckError("\n".join([f"The {form.name} artefact {what}. Nothing was exported.", *details]))


def _ask(artefact: Path, form: Format, reference: Reference, encoded: Reference) -> dict[str, np.ndarray]:
    question = io.BytesIO()
    np.savez(question, allow_pickle=False, images=reference.images, **_pack(encoded.files))
    package_root = str(Path(cifar_trainer.__file__).parent.parent)
    environment = {
        **os.environ,
        # Answers must be exact, unlike those of a GPU with TF32.
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")])),
    }
    try:
        done = subprocess.run(
            module_command("cifar_trainer.artefacts.gate", artefact, *BATCH_SIZES),
            input=question.getbuffer(),
            capture_output=True,
            env=environment,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise _refusal(form, f"did not answer within {_SECONDS:,} seconds in a clean process") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise _refusal(
            form,
            f"could not be used in a clean process (exit code {done.returncode}: "
            f"{' '.join(lines[-3:]) or 'no message'})",
        )
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return dict(arrays)


def _pack(contents: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Pack files into two arrays: their concatenated `bytes`, uint8, and `lengths`, int64 [N]."""
    return {
        "bytes": np.frombuffer(b"".join(contents), np.uint8),
        "lengths": np.array([len(content) for content in contents], np.int64),
    }


def _unpack(arrays: Mapping[str, np.ndarray]) -> list[bytes]:
    ends, content = np.cumsum(arrays["lengths"]), arrays["bytes"].tobytes()
    return [content[end - length : end] for end, length in zip(ends, arrays["lengths"], strict=True)]


def answer(
    artefact: Path, batch_sizes: Sequence[int], question: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Classify the images of `_ask` at each batch size, and the files in one batch."""
    opened = open_artefact(artefact)
    images = question["images"]
    parts = {
        str(size): [opened.predict(images[start : start + size]) for start in range(0, len(images), size)]
        for size in batch_sizes
    }
    if isinstance(opened, TakesBytes):
        parts["encoded"] = [opened.predict_bytes(_unpack(question))]
    joined = {f"{name}_{key}": value for key, some in parts.items() for name, value in _join(some).items()}
    return {"classes": np.array(opened.classes), **joined}


def _join(parts: Sequence[Predictions]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([np.asarray(getattr(part, name)) for part in parts]) for name in _OUTPUTS}


def main(artefact: str, *batch_sizes: str) -> int:
    """The clean process; returns 1 if the artefact cannot be used."""
    # Keep a runtime's own output out of the answer.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
    try:
        arrays = answer(Path(artefact), [int(size) for size in batch_sizes], question)
    except CifarTrainerError as error:
        print(error, file=sys.stderr)
        return 1
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    with output:
        output.write(buffer.getbuffer())
    return 0


# The comparison.


def compare(answers: dict[str, np.ndarray], how: str, form: Format, reference: Reference) -> Proof:
    """Compare an artefact's answers with the Keras model's.

    Args:
        answers: `logits`, `probabilities`, `class_id`, `class_name` for the first images.
        how: kind of request, for the message.
        form: the format, whose bound applies.
        reference: the Keras model's answers, to at least these images.

    Raises:
        CheckError: they differ too much, or the outputs contradict each other.
    """
    reference = reference.first(len(answers["class_id"]))
    _check_shapes(answers, form, len(reference.labels), len(reference.classes))
    differences = np.abs(answers["logits"] - reference.logits).max(axis=1)
    _check_consistency(answers, differences, form, reference)
    expected = reference.logits.argmax(axis=1)
    chosen = answers["class_id"]
    differs = chosen != expected
    rows = np.arange(len(expected))
    margin = reference.logits[rows, expected] - reference.logits[rows, chosen]
    allowed = form.bound.difference and max(form.bound.difference, _ROUNDINGS * reference.rounding)
    tied = margin <= 2 * (allowed or 0.0)
    proof = Proof(
        images=len(expected),
        max_abs_difference=float(differences.max()),
        agreement=_share(~differs),
        accuracy=_share(chosen == reference.labels),
        reference_accuracy=_share(expected == reference.labels),
    )
    broken = _broken_bounds(proof, _share(~differs | tied), form.bound, allowed, reference.labels)
    if broken:
        raise _refusal(
            form,
            f"does not agree with the Keras model {how}: {'; '.join(broken)}",
            _describe_worst(differences, differs, answers, reference),
        )
    return proof


def _share(holds: np.ndarray) -> float:
    # Divide integers, so that 999 of 1,000 equals 0.999 exactly.
    return int(holds.sum()) / len(holds)


def _check_shapes(answers: dict[str, np.ndarray], form: Format, count: int, classes: int) -> None:
    wide, narrow = (count, classes), (count,)
    for name, shape in zip(_OUTPUTS, (wide, wide, narrow, narrow), strict=True):
        if answers[name].shape != shape:
            raise _refusal(form, f"returned {name} of shape {answers[name].shape}; expected {shape}")
    if not np.isfinite(answers["logits"]).all():
        raise _refusal(form, "returned logits that are not finite")


def _check_consistency(
    answers: dict[str, np.ndarray], differences: np.ndarray, form: Format, reference: Reference
) -> None:
    softened = softmax(answers["logits"] / reference.temperature)
    off = np.abs(answers["probabilities"] - softened).max(axis=1)
    chosen = answers["logits"][np.arange(len(off)), answers["class_id"]]
    contradictions = {
        f"its probabilities differ by {off.max():.3g} from the softmax of its logits": (
            ~(off <= _PROBABILITY_TOLERANCE)
        ),
        "its class_id is not that of the largest logit": answers["logits"].max(axis=1) > chosen,
        "its class_name is not the name of its class_id": answers["class_name"]
        != np.array(reference.classes)[answers["class_id"]],
    }
    for what, where in contradictions.items():
        if where.any():
            raise _refusal(
                form,
                f"is inconsistent: {what}, for {where.sum():,} of {len(where):,} images",
                _describe_worst(differences, where, answers, reference),
            )


def _broken_bounds(
    proof: Proof, agreement_or_tie: float, bound: Bound, allowed: float | None, labels: np.ndarray
) -> list[str]:
    from cifar_trainer.metrics import wilson_interval

    broken = []
    if allowed is not None and not proof.max_abs_difference <= allowed:
        broken.append(f"a logit differs by {proof.max_abs_difference:.3g}, expected at most {allowed:.3g}")
    if agreement_or_tie < bound.agreement:
        lost = abs(proof.reference_accuracy - proof.accuracy)
        is_accurate = bound.accuracy_loss is not None and lost <= bound.accuracy_loss
        # At chance, models that disagree have the same accuracy.
        low, _ = wilson_interval(round(proof.reference_accuracy * proof.images), proof.images)
        if not (is_accurate and low > np.bincount(labels).max() / proof.images):
            broken.append(
                f"the top class agrees for {agreement_or_tie:.2%} of {proof.images:,} images, "
                f"expected at least {bound.agreement:.1%} (accuracy {proof.accuracy:.2%}, the Keras model's "
                f"{proof.reference_accuracy:.2%}{', not clearly above chance' if is_accurate else ''})"
            )
    return broken


def _describe_worst(
    differences: np.ndarray, wrong: np.ndarray, answers: dict[str, np.ndarray], reference: Reference
) -> list[str]:
    # Wrong answers first, then by difference.
    worst = np.lexsort((-differences, ~wrong))[:_WORST_SHOWN]
    lines = ["The worst images, by their index among those compared:"]
    for i in worst:
        expected, chosen = reference.logits[i].argmax(), answers["class_id"][i]
        lines.append(
            f"  {i:5d}  {reference.classes[reference.labels[i]]}: "
            f"Keras says {reference.classes[expected]} ({reference.logits[i][expected]:.3f}), "
            f"the artefact {answers['class_name'][i]} ({answers['logits'][i][chosen]:.3f}); "
            f"largest difference {differences[i]:.3g}"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
