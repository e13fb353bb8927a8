"""TensorFlow Serving's warm-up file: requests that it plays to a model before the model gets any traffic.

A TFRecord file of PredictionLog messages. These are four messages deep and hold one
tensor each, so they are put together here, field by field, instead of asking every
user for tensorflow-serving-api (field numbers: tensorflow_serving/apis/
prediction_log.proto, predict.proto, model.proto; encoding: protobuf.dev, "Encoding").
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from cifar_trainer.prediction.pictures import encode_png

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
