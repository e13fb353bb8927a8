"""From a format's name to the module that writes it; its packages are imported only then."""

from pathlib import Path
from typing import Literal

import numpy as np

from cifar_trainer.export.formats import Format
from cifar_trainer.export.network import Network

_LITERT_WEIGHTS: dict[str, Literal["float32", "float16", "int8"]] = {
    "litert": "float32",
    "litert-float16": "float16",
    "litert-int8": "int8",
}


def write_artefact(form: Format, network: Network, path: Path, examples: np.ndarray) -> None:
    """Write `network` to `path` in the format `form`.

    Args:
        form: one of `formats.FORMATS`.
        network: what to write.
        path: a file's name, or an empty folder.
        examples: uint8 [N, 32, 32, 3], training images: for warm-up and for int8's ranges.
    """
    match form.name:
        case "saved_model":
            from cifar_trainer.export import saved_model

            saved_model.write(network, path, examples)
        case "keras":
            from cifar_trainer.export import keras_file

            keras_file.write(network, path)
        case "litert" | "litert-float16" | "litert-int8":
            from cifar_trainer.export import litert

            litert.write(network, path, _LITERT_WEIGHTS[form.name], examples)
        case "onnx":
            from cifar_trainer.export import onnx_file

            onnx_file.write(network, path)
        case _:
            raise ValueError(f"no writer for the format {form.name}")
