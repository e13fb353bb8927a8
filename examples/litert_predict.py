"""Classify images with a `.tflite` file, for example on a Raspberry Pi.

    pip install ai-edge-litert numpy pillow
    python litert_predict.py model.tflite photo.jpg

Copy only this file and the model: neither TensorFlow nor cifar-trainer is needed.
"""

import json
import sys
import zipfile
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
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


def main(model: str, *images: str) -> None:
    """Print the three most likely classes of each image."""
    # The class names and the preprocessing are in a zip archive at the end of the model's file.
    with zipfile.ZipFile(model) as archive:
        names = archive.read("labels.txt").decode("utf-8").splitlines()
        preprocessing = json.loads(archive.read("preprocessing.json"))
    classify = Interpreter(model_path=model).get_signature_runner("serving_default")
    for path in images:
        probabilities = classify(images=read_image(path, preprocessing))["probabilities"][0]
        top = np.argsort(-probabilities)[:3]
        print(f"{path}: " + ", ".join(f"{names[i]} {probabilities[i]:.1%}" for i in top))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Usage: python litert_predict.py MODEL.tflite IMAGE...")
    main(*sys.argv[1:])
