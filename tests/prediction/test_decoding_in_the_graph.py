"""A picture that is decoded in the SavedModel's graph has the pixels and the answer that it has outside."""

from pathlib import Path

import numpy as np
import pytest
from image_files import SHAPE, decode_image, encode, png, rows_of
from PIL import Image

from cifar_trainer.artefacts.encodings import KINDS
from cifar_trainer.artefacts.formats import open_artefact
from cifar_trainer.images import Preprocessing, encode_png


def wave(height: int, width: int, *channels: int) -> np.ndarray:
    """A picture that is smooth in all channels, as photographs are."""
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    planes = [np.sin(7 * x + 5 * y * (k + 1) + k) for k in channels]
    return ((np.stack(planes, axis=-1) + 1) * 127.5).round().astype(np.uint8)


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : complex(height), -1 : 1 : complex(width)]
    return (255 * np.clip(2 - 2 * (x**2 + y**2), 0, 1)).astype(np.uint8)[..., None]


PICTURES = {
    "PNG of 32x32": encode(Image.fromarray(wave(32, 32, 0, 1, 2)), "PNG"),
    "large PNG": encode(Image.fromarray(wave(300, 211, 0, 1, 2)), "PNG"),
    "small PNG": encode(Image.fromarray(wave(9, 17, 0, 1, 2)), "PNG"),
    "large JPEG": encode(Image.fromarray(wave(413, 600, 0, 1, 2)), "JPEG", quality=90),
    "grey JPEG": encode(Image.fromarray(wave(64, 99, 0)[..., 0]), "JPEG"),
    "CMYK JPEG": encode(Image.fromarray(wave(64, 99, 0, 1, 2, 3), "CMYK"), "JPEG"),
    "grey PNG": encode(Image.fromarray(wave(64, 99, 0)[..., 0]), "PNG"),
    "PNG of 16 bits": encode(Image.fromarray(wave(64, 99, 0)[..., 0].astype(np.uint16) * 257), "PNG"),
    "palette PNG": encode(Image.fromarray(wave(64, 99, 0, 1, 2)).quantize(), "PNG"),
    "palette PNG of 16 colours": encode(Image.fromarray(wave(64, 99, 0, 1, 2)).quantize(16), "PNG"),
    "palette PNG of 4 colours": encode(Image.fromarray(wave(64, 99, 0, 1, 2)).quantize(4), "PNG"),
    "PNG of 1 bit": encode(Image.fromarray(wave(64, 99, 0)[..., 0]).convert("1"), "PNG"),
    "grey PNG of 2 bits": png(32, 32, 2, 0, (b"\0" + b"\x1b" * 8) * 32),
    "grey PNG of 4 bits": png(32, 32, 4, 0, (b"\0" + b"\x5a" * 16) * 32),
    "grey PNG of 4 bits, one transparent": png(32, 32, 4, 0, (b"\0" + b"\x5a" * 16) * 32, b"\0\x05"),
    "palette of 16 colours, one transparent": encode(
        Image.fromarray(wave(64, 99, 0, 1, 2)).quantize(16), "PNG", transparency=3
    ),
    "RGB PNG of 16 bits": png(32, 32, 16, 2, rows_of(b"\x10\xff\x20\xff\x30\xff")),
    "PNG with alpha": encode(Image.fromarray(np.dstack([wave(99, 64, 0, 1, 2), ellipse(99, 64)])), "PNG"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_decoded_in_the_graph_has_the_same_pixels(name: str) -> None:
    """At most one level of 255 apart, as both round, each its own sums; CMYK is rounded twice."""
    import tensorflow as tf

    from cifar_trainer.artefacts.decoding import decode_images

    inside = decode_images(tf.constant([PICTURES[name]]), Preprocessing(SHAPE)).numpy()[0]
    outside = decode_image(PICTURES[name]).pixels
    assert np.abs(inside.astype(int) - outside).max() <= (2 if "CMYK" in name else 1)
    if name == "PNG of 32x32":
        np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_that_the_gate_tries_has_the_same_pixels_in_the_graph(kind: str) -> None:
    """To the bit, so that the gate may ask for the answers of the pixels."""
    import tensorflow as tf

    from cifar_trainer.artefacts.decoding import decode_images

    content = KINDS[kind](Image.fromarray(wave(32, 32, 0, 1, 2)))
    inside = decode_images(tf.constant([content]), Preprocessing(SHAPE)).numpy()[0]
    np.testing.assert_array_equal(inside, decode_image(content).pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_becomes_grey_in_the_graph_as_it_does_outside(kind: str) -> None:
    import tensorflow as tf

    from cifar_trainer.artefacts.decoding import decode_images

    grey = Preprocessing((28, 28, 1))
    content = KINDS[kind](Image.fromarray(wave(28, 28, 0, 1, 2)))
    inside = decode_images(tf.constant([content]), grey).numpy()[0]
    np.testing.assert_array_equal(inside, grey.decode(content).pixels)


def test_encoded_bytes_give_the_answer_of_the_array(artefacts: dict[str, Path], data_dir: Path) -> None:
    from cifar_trainer.artefacts.saved_model import SavedModel

    served = open_artefact(artefacts["saved_model"])
    assert isinstance(served, SavedModel)
    shown = np.load(data_dir / "synthetic" / "test_images.npy")[:100]
    by_array = served.predict(shown)
    by_bytes = served.predict_bytes([encode_png(image) for image in shown])
    np.testing.assert_allclose(by_bytes.logits, by_array.logits, rtol=0, atol=1e-5)
    assert by_bytes.class_name == by_array.class_name
    # Larger JPEGs of the same images: other pixels, and still the same ones for both.
    large = [Image.fromarray(image).resize((500, 300), Image.Resampling.BICUBIC) for image in shown[:20]]
    encoded = [encode(image, "JPEG", quality=90) for image in large]
    by_array = served.predict(np.stack([decode_image(each).pixels for each in encoded]))
    by_bytes = served.predict_bytes(encoded)
    np.testing.assert_allclose(by_bytes.probabilities, by_array.probabilities, rtol=0, atol=0.02)
    assert by_bytes.class_name == by_array.class_name
