"""Load an exported SavedModel with TensorFlow alone, and classify an image through both signatures.

    python load_saved_model.py runs/RUN/export/saved_model photo.png

`serving_default` takes pixels, which this script reads with Pillow. `serving_bytes` takes
the bytes of a PNG or JPEG file, and decodes and resizes it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps


def read_image(path: str, preprocessing: dict[str, Any]) -> np.ndarray:
    """Read an image as uint8 [1, H, W, C], preprocessed like the training images. The model scales it."""
    height, width, channels = preprocessing["image_shape"]
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 255.
        shift = (preprocessing["grey_bits"] or 16) - 8
        image = Image.fromarray((np.asarray(image) >> shift).clip(0, 255).astype(np.uint8))
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")  # Shows through transparent parts.
    image = Image.alpha_composite(white, image).convert("RGB" if channels == 3 else "L")
    size, smooth = (width, height), Image.Resampling.BILINEAR
    match preprocessing["resize"]:
        case "crop":
            image = ImageOps.fit(image, size, smooth)
        case "fit":
            image = ImageOps.pad(image, size, smooth, color="white")
        case _:
            image = image.resize(size, smooth)
    return np.asarray(image).reshape(1, height, width, channels)


def main(folder: str, path: str) -> None:
    """Print the class and its probability for each signature."""
    model = tf.saved_model.load(folder)
    preprocessing = json.loads(Path(folder, "assets.extra", "preprocessing.json").read_bytes())
    inputs = {
        "serving_default": {"images": tf.constant(read_image(path, preprocessing))},
        "serving_bytes": {"image_bytes": tf.constant([Path(path).read_bytes()])},
    }
    for signature, tensors in inputs.items():
        outputs = model.signatures[signature](**tensors)
        name = outputs["class_name"].numpy()[0].decode("utf-8")
        print(f"{signature}: {name} {outputs['probabilities'].numpy().max():.1%}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Usage: python load_saved_model.py SAVED_MODEL IMAGE")
    main(*sys.argv[1:])
