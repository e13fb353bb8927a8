"""The SavedModel: two signatures, class names beside them, and TensorFlow Serving's version folder."""

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from cifar_trainer.export.encoded_pictures import decode_pictures
from cifar_trainer.export.network import Network
from cifar_trainer.export.warmup import write_warmup
from cifar_trainer.prediction.saved_model import CLASSES_FILE

#: TensorFlow Serving looks for numbered folders below the folder that it is given.
VERSION = "1"


def write(network: Network, folder: Path, examples: np.ndarray) -> None:
    """Write a SavedModel into `folder`, which exists and is empty.

    `examples`, uint8 [N, 32, 32, 3], are the real pictures of the warm-up requests.

    Signatures: `serving_default` takes `images`, uint8 [N, 32, 32, 3]; `serving_bytes`
    takes `image_bytes`, string [N], PNG or JPEG of any size. Both return `logits`,
    `probabilities`, `class_id` and `class_name`.
    """

    images_spec = tf.TensorSpec([None, 32, 32, 3], tf.uint8, name="images")
    bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")

    @tf.function(input_signature=[images_spec], autograph=False)
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.named_outputs(images)

    @tf.function(input_signature=[bytes_spec], autograph=False)
    def serve_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.named_outputs(decode_pictures(image_bytes))

    module = tf.Module()
    # Bare TensorFlow variables, so that loading needs no Keras.
    module.weights = [weight.value for weight in network.model.weights]
    module.serve = serve
    module.serve_bytes = serve_bytes
    tf.saved_model.save(
        module, str(folder), signatures={"serving_default": serve, "serving_bytes": serve_bytes}
    )
    write_warmup(folder, examples)
    (folder / CLASSES_FILE).write_text("\n".join(network.classes) + "\n", encoding="utf-8")
    _add_version_folder(folder)


def _add_version_folder(folder: Path) -> None:
    """Make `folder/1/` show the same files: one folder for tf.saved_model.load and for TensorFlow Serving."""
    version = folder / VERSION
    contents = sorted(folder.iterdir())
    version.mkdir()
    for path in contents:
        try:
            (version / path.name).symlink_to(Path("..") / path.name)
        except OSError:  # A file system without links, such as a memory card's.
            if path.is_dir():
                shutil.copytree(path, version / path.name)
            else:
                shutil.copy2(path, version / path.name)
