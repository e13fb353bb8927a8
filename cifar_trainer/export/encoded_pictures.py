"""Encoded pictures to pixels inside a TensorFlow graph, as `prediction.pictures` does it outside.

A JPEG is decoded as RGB; a PNG as RGBA on a white ground. The result is resized by a
triangle filter that widens when it shrinks (Pillow's BILINEAR, TensorFlow's bilinear
with antialias). The one thing left out is the EXIF orientation, which TensorFlow's
decoder does not know.
"""

import tensorflow as tf

from cifar_trainer.prediction.pictures import MAX_PIXELS, SIZE


def decode_pictures(encoded: tf.Tensor) -> tf.Tensor:
    """PNG or JPEG bytes, string [N], to uint8 [N, 32, 32, 3]."""
    return tf.map_fn(_decode, encoded, fn_output_signature=tf.TensorSpec([SIZE, SIZE, 3], tf.uint8))


def _decode(encoded: tf.Tensor) -> tf.Tensor:
    pixels = tf.cond(tf.io.is_jpeg(encoded), lambda: _decode_jpeg(encoded), lambda: _decode_png(encoded))
    resized = tf.image.resize(pixels, [SIZE, SIZE], method="bilinear", antialias=True)
    rounded = tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)
    return tf.ensure_shape(rounded, [SIZE, SIZE, 3])


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
