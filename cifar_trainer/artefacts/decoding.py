"""Decodes and resizes PNG and JPEG files in TensorFlow's graph, to the same pixels as `images`."""

import tensorflow as tf

from cifar_trainer.images import MAX_PIXELS, RESIZES, Axis, Preprocessing

#: Fractional bits of Pillow's resampling weights.
_WEIGHT_BITS = 22


def decode_images(encoded: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decode PNG or JPEG files, string [N], to uint8 [N, H, W, C]. Ignores the EXIF orientation."""
    return tf.map_fn(
        lambda content: _decode(content, preprocessing),
        encoded,
        fn_output_signature=tf.TensorSpec(preprocessing.image_shape, tf.uint8),
    )


def _decode(encoded: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    pixels = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: _decode_jpeg(encoded),
        lambda: _decode_png(encoded, preprocessing.grey_bits),
    )
    if preprocessing.image_shape[2] == 1:
        pixels = _to_greyscale(pixels)
    return _resize(pixels, preprocessing)


def _to_greyscale(pixels: tf.Tensor) -> tf.Tensor:
    # Pillow's 16-bit fractions (ITU-R BT.601), for the same bits.
    weighted = tf.cast(pixels, tf.int32) * tf.constant([19595, 38470, 7471])
    return tf.cast((tf.reduce_sum(weighted, axis=-1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    with tf.control_dependencies([_check_pixels(shape[0] * shape[1])]):
        return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_png(encoded: tf.Tensor, grey_bits: int | None) -> tf.Tensor:
    # Pad with zeros, so that the header of a truncated file can be read.
    padded = tf.strings.join([encoded, tf.constant(b"\0" * 32)])
    # The first chunk has width, height, bits per channel and colour type from byte 16 on (PNG, 11.2.2).
    width, height = tf.cast(_integer(padded, 16), tf.int64), tf.cast(_integer(padded, 20), tf.int64)
    bits = tf.cast(tf.io.decode_raw(tf.strings.substr(padded, 24, 1), tf.uint8)[0], tf.int32)
    with tf.control_dependencies([_check_pixels(width * height)]):
        pixels = tf.cast(tf.io.decode_png(encoded, channels=4), tf.float32)
        if grey_bits is not None:
            deep_grey = tf.logical_and(bits == 16, tf.strings.substr(padded, 25, 1) == b"\0")
            pixels = tf.cond(deep_grey, lambda: _decode_deep_grey(encoded, grey_bits), lambda: pixels)
    # Below 8 bits, TensorFlow fills a missing alpha with the largest value of these bits, such as 15.
    opaque = tf.logical_and(bits < 8, tf.logical_not(_has_transparency(padded)))
    alpha = tf.where(opaque, 1.0, pixels[..., 3:] / 255)
    return tf.cast(tf.round(pixels[..., :3] * alpha + 255 * (1 - alpha)), tf.uint8)


def _decode_deep_grey(encoded: tf.Tensor, grey_bits: int) -> tf.Tensor:
    """Decode a 16-bit greyscale PNG that uses `grey_bits` bits to RGBA from 0 to 255."""
    pixels = tf.cast(tf.io.decode_png(encoded, channels=4, dtype=tf.uint16), tf.int32)
    colours = tf.minimum(pixels[..., :3] // 2 ** (grey_bits - 8), 255)
    return tf.cast(tf.concat([colours, pixels[..., 3:] // 257], axis=-1), tf.float32)


def _has_transparency(png: tf.Tensor) -> tf.Tensor:
    """Whether there is a tRNS chunk before the first IDAT (PNG, section 5.6)."""
    end = tf.strings.length(png) - 32

    def is_another(position: tf.Tensor) -> tf.Tensor:
        name = _chunk_name(png, position)
        return tf.logical_and(position < end, tf.logical_and(name != b"IDAT", name != b"tRNS"))

    def next_chunk(position: tf.Tensor) -> list[tf.Tensor]:
        # Length, name and checksum take 4 bytes each. A length beyond the file's end stops the loop.
        length = tf.clip_by_value(_integer(png, position), 0, end)
        return [tf.minimum(position + length + 12, end)]

    (position,) = tf.while_loop(is_another, next_chunk, [tf.constant(8)])
    return _chunk_name(png, position) == b"tRNS"


def _chunk_name(png: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(png, position + 4, 4)


def _integer(content: tf.Tensor, position: tf.Tensor | int) -> tf.Tensor:
    """Four bytes as an int32 scalar, big-endian."""
    return tf.io.decode_raw(tf.strings.substr(content, position, 4), tf.int32, little_endian=False)[0]


def _check_pixels(count: tf.Tensor) -> tf.Operation:
    return tf.debugging.assert_less_equal(
        count, tf.constant(MAX_PIXELS, tf.int64), f"An image has more than {MAX_PIXELS} pixels."
    )


def _resize(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """`Preprocessing.resize_image` with Pillow's own arithmetic, for the same bits."""
    height, width, channels = preprocessing.image_shape
    size = tf.cast(tf.shape(pixels), tf.float64)
    across = Axis(size[1], width, size[0], height)
    down = Axis(size[0], height, size[1], width)
    # Columns first: gathering from the first axis copies whole rows of memory.
    columns = _resample(tf.transpose(pixels, [1, 0, 2]), across, preprocessing)
    rows = _resample(tf.transpose(columns, [1, 0, 2]), down, preprocessing)
    return tf.ensure_shape(rows, (height, width, channels))


def _resample(pixels: tf.Tensor, axis: Axis, preprocessing: Preprocessing) -> tf.Tensor:
    """Resize along the first axis: uint8 [size, other, C] to [target, other, C] (Pillow's Resample.c)."""
    length, inner = RESIZES[preprocessing.resize](axis, tf)
    length, inner = tf.cast(length, tf.float64), tf.cast(inner, tf.int32)
    # Pillow rounds the ends of the crop to single precision.
    start = tf.cast((axis.size - length) * 0.5, tf.float32)
    end = tf.cast((axis.size - length) * 0.5 + length, tf.float32)
    scale = tf.cast(end - start, tf.float64) / tf.cast(inner, tf.float64)
    support = tf.maximum(scale, 1.0)
    center = tf.cast(start, tf.float64) + (tf.cast(tf.range(inner), tf.float64) + 0.5) * scale
    first = tf.cast(tf.maximum(center - support + 0.5, 0), tf.int32)
    last = tf.cast(tf.minimum(center + support + 0.5, axis.size), tf.int32)
    taps = tf.range(tf.reduce_max(last - first))
    distance = tf.cast(first[:, None] + taps, tf.float64) - center[:, None] + 0.5
    weights = tf.maximum(1 - tf.abs(distance * (1 / support)), 0)
    weights = tf.where(first[:, None] + taps < last[:, None], weights, 0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    weights = tf.cast(weights * 2**_WEIGHT_BITS + 0.5, tf.int32)
    highest = tf.shape(pixels)[0] - 1

    def add(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        taken = tf.cast(tf.gather(pixels, tf.minimum(first + tap, highest)), tf.int32)
        return tap + 1, total + taken * weights[:, tap, None, None]

    total = tf.fill([inner, tf.shape(pixels)[1], pixels.shape[2]], 1 << (_WEIGHT_BITS - 1))
    shapes = tf.TensorShape([]), tf.TensorShape([None, None, pixels.shape[2]])
    _, total = tf.while_loop(lambda tap, _: tap < tf.size(taps), add, (0, total), shape_invariants=shapes)
    resized = tf.cast(tf.clip_by_value(total // 2**_WEIGHT_BITS, 0, 255), tf.uint8)
    before = tf.cast(tf.round(tf.cast(axis.target - inner, tf.float64) * 0.5), tf.int32)
    after = axis.target - inner - before
    return tf.pad(resized, [[before, after], [0, 0], [0, 0]], constant_values=255)
