"""Classify pictures with a `.tflite` file, on a Raspberry Pi for instance.

    pip install ai-edge-litert numpy pillow
    python litert_predict.py model.tflite photo.jpg

This file and the model are all that is copied: neither TensorFlow nor cifar-trainer is needed.
"""

import sys
import zipfile
from collections.abc import Sequence

import numpy as np
from ai_edge_litert.interpreter import Interpreter
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


def main(model: str, *pictures: str) -> None:
    """Print the three likeliest classes of each picture."""
    # The names are a text file in a zip archive at the end of the model's file.
    with zipfile.ZipFile(model) as archive:
        names = archive.read("labels.txt").decode("utf-8").splitlines()
    classify = Interpreter(model_path=model).get_signature_runner("serving_default")
    shape = classify.get_input_details()["images"]["shape"][1:]
    for path in pictures:
        probabilities = classify(images=read_picture(path, shape))["probabilities"][0]
        likeliest = np.argsort(-probabilities)[:3]
        print(f"{path}: " + ", ".join(f"{names[i]} {probabilities[i]:.1%}" for i in likeliest))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Usage: python litert_predict.py MODEL.tflite PICTURE...")
    main(*sys.argv[1:])
