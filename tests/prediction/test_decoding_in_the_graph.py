"""A picture that is decoded in the SavedModel's graph has the pixels and the answer that it has outside."""

from pathlib import Path

import numpy as np
import pytest
from image_files import SHAPE, decode_image, encode, png
from PIL import Image

from cifar_trainer.artefacts.formats import open_artefact
from cifar_trainer.artefacts.gate import KINDS
from cifar_trainer.images import Preprocessing, encode_png


def wave(height: int, width: int, *channels: int) -> np.ndarray:
    """A picture that is smooth in all channels, as photographs are."""
    y, x = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    planes = [np.sin(7 * x + 5 * y * (k + 1) + k) for k in channels]
    return ((np.stack(planes, axis=-1) + 1) * 127.5).round().astype(np.uint8)


def ellipse(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : complex(height), -1 : 1 : complex(width)]
    return (255 * np.clip(2 - 2 * (x**2 + y**2), 0, 1)).astype(np.uint8)[..., None]


IMAGES = {
    "large PNG": encode(Image.fromarray(wave(300, 211, 0, 1, 2)), "PNG"),
    "small PNG": encode(Image.fromarray(wave(9, 17, 0, 1, 2)), "PNG"),
    "large JPEG": encode(Image.fromarray(wave(413, 600, 0, 1, 2)), "JPEG", quality=90),
    "large grey JPEG": encode(Image.fromarray(wave(64, 99, 0)[..., 0]), "JPEG"),
    "large CMYK JPEG": encode(Image.fromarray(wave(64, 99, 0, 1, 2, 3), "CMYK"), "JPEG"),
    "large PNG with alpha": encode(
        Image.fromarray(np.dstack([wave(99, 64, 0, 1, 2), ellipse(99, 64)])), "PNG"
    ),
    "grey PNG of 2 bits": png(32, 32, 2, 0, (b"\0" + b"\x1b" * 8) * 32),
    "grey PNG of 4 bits": png(32, 32, 4, 0, (b"\0" + b"\x5a" * 16) * 32),
    "grey PNG of 4 bits, one transparent": png(32, 32, 4, 0, (b"\0" + b"\x5a" * 16) * 32, b"\0\x05"),
    **{kind: encode_as(Image.fromarray(wave(32, 32, 0, 1, 2))) for kind, encode_as in KINDS.items()},
}


@pytest.mark.parametrize("preprocessing", [Preprocessing(SHAPE), Preprocessing((28, 28, 1), "crop")])
def test_images_have_the_same_pixels_in_the_graph(preprocessing: Preprocessing) -> None:
    """To the bit, so that the gate may require the answers to these pixels."""
    import tensorflow as tf

    from cifar_trainer.artefacts.decoding import decode_images

    inside = decode_images(tf.constant(list(IMAGES.values())), preprocessing).numpy()
    for (name, content), pixels in zip(IMAGES.items(), inside, strict=True):
        np.testing.assert_array_equal(pixels, preprocessing.decode(content).pixels, err_msg=name)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_greys_of_16_bits_are_scaled_by_the_bits_in_use_in_the_graph(bits: int) -> None:
    import tensorflow as tf

    from cifar_trainer.artefacts.decoding import decode_images

    preprocessing = Preprocessing(SHAPE, grey_bits=bits)
    values = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64 >> (16 - bits)
    contents = [encode(Image.fromarray(values), "PNG"), IMAGES["PNG of 16 bits"], IMAGES["grey PNG"]]
    inside = decode_images(tf.constant(contents), preprocessing).numpy()
    for content, pixels in zip(contents, inside, strict=True):
        np.testing.assert_array_equal(pixels, preprocessing.decode(content).pixels)


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
