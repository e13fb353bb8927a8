"""Classify pictures with an `.onnx` file.

    pip install onnxruntime numpy pillow
    python onnx_predict.py model.onnx photo.jpg

This file and the model are all that is copied: neither TensorFlow nor cifar-trainer is needed.
"""

import json
import sys
from collections.abc import Sequence

import numpy as np
import onnxruntime
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
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    # The names are a JSON list among the model's metadata.
    names = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    shape = session.get_inputs()[0].shape[1:]
    for path in pictures:
        (batch,) = session.run(["probabilities"], {"images": read_picture(path, shape)})
        likeliest = np.argsort(-batch[0])[:3]
        print(f"{path}: " + ", ".join(f"{names[i]} {batch[0, i]:.1%}" for i in likeliest))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Usage: python onnx_predict.py MODEL.onnx PICTURE...")
    main(*sys.argv[1:])
