"""SavedModel: written with Keras, opened with TensorFlow alone."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import tensorflow as tf

from cifar_trainer import files
from cifar_trainer.artefacts.decoding import decode_images
from cifar_trainer.artefacts.formats import Artefact, Predictions, read_preprocessing
from cifar_trainer.images import encode_png
from cifar_trainer.model import Network

#: TensorFlow Serving reads only this file.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_BATCH_SIZES = (1, 32)


def write_warmup(folder: Path, images: np.ndarray) -> None:
    """Write warm-up requests for both signatures, from images uint8 [N, H, W, C], into a SavedModel."""
    encoded = [encode_png(image) for image in images[: max(_BATCH_SIZES)]]
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in _BATCH_SIZES:
            writer.write(_prediction_log("serving_default", "images", images[:size]))
            writer.write(_prediction_log("serving_bytes", "image_bytes", encoded[:size]))


def _prediction_log(signature: str, name: str, value: np.ndarray | list[bytes]) -> bytes:
    tensor = tf.make_tensor_proto(value).SerializeToString()
    # No name: Serving takes the model from the folder.
    model_spec = _field(3, signature.encode())
    inputs = _field(1, name.encode()) + _field(2, tensor)
    request = _field(1, model_spec) + _field(2, inputs)
    predict_log = _field(1, request)
    return _field(6, predict_log)


def _field(number: int, content: bytes) -> bytes:
    # Protocol Buffers' wire type 2: a tag, the length as a varint, the bytes.
    length, varint = len(content), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return bytes([number << 3 | 2]) + bytes(varint) + content


#: TensorFlow Serving looks for numbered folders in the model's folder.
VERSION = "1"


def write(network: Network, folder: Path, examples: np.ndarray) -> None:
    """Write a SavedModel into `folder`, which is empty, with `examples` as its warm-up requests.

    Signatures: `serving_default` takes `images`, uint8 [N, H, W, C]; `serving_bytes`
    takes `image_bytes`, string [N], PNG or JPEG of any size. Both return `logits`,
    `probabilities`, `class_id` and `class_name`.
    """

    images_spec = tf.TensorSpec([None, *network.image_shape], tf.uint8, name="images")
    bytes_spec = tf.TensorSpec([None], tf.string, name="image_bytes")

    @tf.function(input_signature=[images_spec], autograph=False)
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.named_outputs(images)

    @tf.function(input_signature=[bytes_spec], autograph=False)
    def serve_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.named_outputs(decode_images(image_bytes, network.preprocessing))

    module = tf.Module()
    # Plain TensorFlow variables, so that loading does not need Keras.
    module.weights = [weight.value for weight in network.model.weights]
    module.serve = serve
    module.serve_bytes = serve_bytes
    version = folder / VERSION
    version.mkdir()
    signatures = {"serving_default": serve, "serving_bytes": serve_bytes}
    with files.plain_link(version) as link:
        tf.saved_model.save(module, str(link), signatures=signatures)
        write_warmup(link, examples)
    (version / CLASSES_FILE).write_text("\n".join(network.classes) + "\n", encoding="utf-8")
    (version / PREPROCESSING_FILE).write_bytes(msgspec.json.encode(network.preprocessing))
    _link_files(version)


def _link_files(version: Path) -> None:
    """Link the files of `folder/1` into `folder`, where programs other than TensorFlow Serving look for them.

    The version's folder contains the files themselves, so it can be copied on its own.
    """
    for path in sorted(version.iterdir()):
        shown = version.parent / path.name
        try:
            shown.symlink_to(Path(version.name) / path.name)
        except OSError:  # A file system without links, such as FAT.
            if path.is_dir():
                shutil.copytree(path, shown)
            else:
                shutil.copy2(path, shown)


#: TensorFlow reserves assets.extra for its users.
CLASSES_FILE = Path("assets.extra") / "classes.txt"
PREPROCESSING_FILE = Path("assets.extra") / "preprocessing.json"


class SavedModel(Artefact):
    """A SavedModel with the signature `serving_default` of this package's exports."""

    format = "saved_model"

    def __init__(self, path: Path) -> None:
        self.classes = tuple((path / CLASSES_FILE).read_text(encoding="utf-8").splitlines())
        # Keep the loaded object: it owns the variables of the signature.
        with files.plain_link(path) as link:
            self._loaded = tf.saved_model.load(str(link))
        self._serve = self._loaded.signatures["serving_default"]
        self._serve_bytes = self._loaded.signatures["serving_bytes"]
        shape = self._serve.structured_input_signature[1]["images"].shape[1:]
        recorded = path / PREPROCESSING_FILE
        self.preprocessing = read_preprocessing(recorded.read_bytes() if recorded.is_file() else None, shape)

    def predict(self, images: np.ndarray) -> Predictions:
        return _predictions(self._serve(images=tf.constant(images, tf.uint8)))

    def predict_bytes(self, encoded: Sequence[bytes]) -> Predictions:
        """Classify PNG or JPEG files, decoded and resized in the graph."""
        return _predictions(self._serve_bytes(image_bytes=tf.constant(encoded, tf.string)))


def _predictions(outputs: dict[str, tf.Tensor]) -> Predictions:
    return Predictions(
        logits=outputs["logits"].numpy(),
        probabilities=outputs["probabilities"].numpy(),
        class_id=outputs["class_id"].numpy(),
        class_name=tuple(name.decode("utf-8") for name in outputs["class_name"].numpy()),
    )


def open_artefact(path: Path) -> Artefact:
    """Open a SavedModel from `cifar-trainer export`."""
    return SavedModel(path)
