"""The SavedModel: written, and opened by TensorFlow without Keras."""

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from cifar_trainer.artefacts.formats import Artefact, Predictions
from cifar_trainer.artefacts.network import Network
from cifar_trainer.errors import RunError
from cifar_trainer.images import DEFAULT_SHAPE, MAX_PIXELS, encode_png


def decode_images(encoded: tf.Tensor) -> tf.Tensor:
    """PNG or JPEG bytes, string [N], to uint8 [N, 32, 32, 3]."""
    return tf.map_fn(_decode, encoded, fn_output_signature=tf.TensorSpec(DEFAULT_SHAPE, tf.uint8))


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.cond(tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded), lambda: _decode_png(encoded))
    resized = tf.image.resize(pixels, DEFAULT_SHAPE[:2], method="bilinear", antialias=True)
    rounded = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return tf.ensure_shape(rounded, DEFAULT_SHAPE)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    with tf.control_dependencies([_check_pixels(shape[0] * shape[1])]):
        pixels = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cast(pixels, tf.float32)


def _decode_png(encoded: tf.Tensor) -> tf.Tensor:
    # Width and height stand in the first chunk, big-endian, at bytes 16 to 23 (PNG, section 11.2.2).
    header = tf.strings.substr(tf.strings.join([encoded, tf.constant(b"\0" * 24)]), 16, 8)
    size = tf.io.decode_raw(header, tf.int32, little_endian=False)
    width, height = tf.unstack(tf.cast(size, tf.int64), num=2)
    with tf.control_dependencies([_check_pixels(width * height)]):
        pixels = tf.cast(tf.io.decode_png(encoded, channels=4), tf.float32)
    alpha = pixels[..., 3:] / 255
    return tf.round(pixels[..., :3] * alpha + 255 * (1 - alpha))


def _check_pixels(count: tf.Tensor) -> tf.Operation:
    return tf.debugging.assert_less_equal(
        count, tf.constant(MAX_PIXELS, tf.int64), f"A picture has more than {MAX_PIXELS} pixels."
    )


#: TensorFlow Serving reads this file and no other.
WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_BATCH_SIZES = (1, 32)


def write_warmup(folder: Path, images: np.ndarray) -> None:
    """Write requests to both signatures into a SavedModel's folder.

    Args:
        folder: of the SavedModel.
        images: uint8 [N, 32, 32, 3], real pictures.
    """
    encoded = [encode_png(image) for image in images[: max(_BATCH_SIZES)]]
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in _BATCH_SIZES:
            writer.write(_prediction_log("serving_default", "images", images[:size]))
            writer.write(_prediction_log("serving_bytes", "image_bytes", encoded[:size]))


def _prediction_log(signature: str, name: str, value: np.ndarray | list[bytes]) -> bytes:
    tensor = tf.make_tensor_proto(value).SerializeToString()
    model_spec = _field(1, b"cifar10") + _field(3, signature.encode())
    inputs = _field(1, name.encode()) + _field(2, tensor)
    request = _field(1, model_spec) + _field(2, inputs)
    predict_log = _field(1, request)
    return _field(6, predict_log)


def _field(number: int, content: bytes) -> bytes:
    # Wire type 2: a tag, the length as a varint, the bytes.
    length, varint = len(content), bytearray()
    while length > 0x7F:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return bytes([number << 3 | 2]) + bytes(varint) + content


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
        return network.named_outputs(decode_images(image_bytes))

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


#: Where the class names lie in a SavedModel; TensorFlow leaves assets.extra to its users.
CLASSES_FILE = Path("assets.extra") / "classes.txt"


class SavedModel:
    """A SavedModel with the signature `serving_default` of this package's exports."""

    format = "saved_model"

    def __init__(self, path: Path) -> None:
        self.classes = tuple((path / CLASSES_FILE).read_text(encoding="utf-8").splitlines())
        # The loaded object owns the variables: it must live as long as the signature.
        self._loaded = tf.saved_model.load(str(path))
        self._serve = self._loaded.signatures["serving_default"]
        self._serve_bytes = self._loaded.signatures["serving_bytes"]
        self.image_shape = tuple(self._serve.structured_input_signature[1]["images"].shape[1:])

    def predict(self, images: np.ndarray) -> Predictions:
        return _predictions(self._serve(images=tf.constant(images, tf.uint8)))

    def predict_bytes(self, pictures: list[bytes]) -> Predictions:
        """Classify encoded PNG or JPEG pictures, decoded and resized in the graph."""
        return _predictions(self._serve_bytes(image_bytes=tf.constant(pictures, tf.string)))


def _predictions(outputs: dict[str, tf.Tensor]) -> Predictions:
    return Predictions(
        logits=outputs["logits"].numpy(),
        probabilities=outputs["probabilities"].numpy(),
        class_id=outputs["class_id"].numpy(),
        class_name=tuple(name.decode("utf-8") for name in outputs["class_name"].numpy()),
    )


def open_artefact(path: Path) -> Artefact:
    """Open a SavedModel that `cifar-trainer export` has written.

    Raises:
        RunError: it is damaged, or lacks what such an export holds.
    """
    try:
        return SavedModel(path)
    except (OSError, ValueError, KeyError, UnicodeDecodeError, tf.errors.OpError) as error:
        raise RunError(
            f"{path} is not a whole SavedModel of cifar-trainer: {type(error).__name__}: {error}. "
            "Make it anew with: cifar-trainer export --force"
        ) from error
