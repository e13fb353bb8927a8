"""Load an exported SavedModel with TensorFlow alone, and classify one picture by both signatures.

python load_saved_model.py runs/RUN/export/saved_model photo.png

`serving_default` takes pixels, which this script reads with Pillow; `serving_bytes` takes
the file's bytes, PNG or JPEG, and does the rest itself.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps


def read_picture(path: str, shape: Sequence[int]) -> np.ndarray:
    """A picture file as uint8 [1, *shape]: height, width, channels. The model scales the values itself."""
    height, width, channels = shape
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")  # Under what is transparent.
    picture = Image.alpha_composite(ground, picture).convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    return pixels.reshape(1, height, width, channels)


def main(folder: str, path: str) -> None:
    """Print for each signature the class and its probability."""
    model = tf.saved_model.load(folder)
    shape = model.signatures["serving_default"].structured_input_signature[1]["images"].shape[1:]
    inputs = {
        "serving_default": {"images": tf.constant(read_picture(path, shape))},
        "serving_bytes": {"image_bytes": tf.constant([Path(path).read_bytes()])},
    }
    for signature, tensors in inputs.items():
        outputs = model.signatures[signature](**tensors)
        name = outputs["class_name"].numpy()[0].decode("utf-8")
        print(f"{signature}: {name} {outputs['probabilities'].numpy().max():.1%}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python load_saved_model.py SAVED_MODEL PICTURE")
    main(*sys.argv[1:])
