"""Classify images with an `.onnx` file.

    pip install onnxruntime numpy pillow
    python onnx_predict.py model.onnx photo.jpg

Copy only this file and the model: neither TensorFlow nor cifar-trainer is needed.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime
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
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    # The model's metadata holds the class names and the preprocessing as JSON.
    metadata = session.get_modelmeta().custom_metadata_map
    names, preprocessing = json.loads(metadata["classes"]), json.loads(metadata["preprocessing"])
    for path in images:
        (batch,) = session.run(["probabilities"], {"images": read_image(path, preprocessing)})
        top = np.argsort(-batch[0])[:3]
        print(f"{path}: " + ", ".join(f"{names[i]} {batch[0, i]:.1%}" for i in top))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Usage: python onnx_predict.py MODEL.onnx IMAGE...")
    main(*sys.argv[1:])
