"""Read arrays of images: NumPy's .npz and .npy, MATLAB's .mat, and MNIST's IDX files."""

import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from cifar_trainer.data import formats
from cifar_trainer.data.dataset import ImageSet, OnImages, Split
from cifar_trainer.data.decoding import ReadOptions
from cifar_trainer.data.folder import Folder, abridged
from cifar_trainer.data.labels import flat_labels, number_labels, split_of
from cifar_trainer.data.unpack import MAX_BYTES
from cifar_trainer.errors import DataError, counted
from cifar_trainer.images import Preprocessing
from cifar_trainer.settings import MAX_SIZE, MIN_SIZE

#: Words in the names of arrays, for each kind.
IMAGE_WORDS = ("images", "image", "x", "data", "imgs", "img")
LABEL_WORDS = ("labels", "label", "y", "targets", "target", "fine_labels", "fine_label")
_CLASS_NAMES = ("classes", "class_names", "label_names")

#: The split and the kind of an array: `images`, `labels` or `names`.
Role = tuple[str, str]


def read_arrays(folder: Folder, options: ReadOptions, on_images: OnImages) -> ImageSet | None:
    """Read arrays such as x_train, y_train, x_test and y_test; None if there are no arrays."""
    files = folder.of_format(*formats.ARRAYS)
    if not files:
        return None
    arrays = _load(folder, files)
    splits = sorted(split for split, kind in arrays if kind == "images" and (split, "labels") in arrays)
    if not splits:
        held = abridged(f"{split} {kind}" for split, kind in arrays) or abridged(files)
        raise DataError(
            f"{folder.path} has no arrays of images with labels; it contains {held}. Expected x_train, "
            "y_train, x_test and y_test; or images and labels."
        )
    labels, resized = {}, 0
    images = {split: _by_row(arrays[split, "images"], options, _name(folder, split)) for split in splits}
    fractions = sum(len(array) for array in images.values() if array.dtype.kind == "f")
    scale = _scale(images, str(folder.path))
    for split in splits:
        images[split] = _to_uint8(images[split], scale)
        labels[split] = flat_labels(arrays[split, "labels"])
        count = len(labels[split])
        if count != len(images[split]):
            raise DataError(
                f"{folder.path} has {count:,} labels for {len(images[split]):,} images ({split}). "
                "Expected one per image."
            )
        before = images[split].shape
        images[split] = _sized(images[split], options, _name(folder, split))
        resized += count * (images[split].shape != before)
        on_images(count, count)
    names = arrays.get(("all", "names"))
    given = [] if names is None else [str(name) for name in names.ravel()]
    classes, numbers, notes = number_labels(labels, given, options.spec, str(folder.path))
    if fractions:
        done = "scaled to 0..255" if scale > 1 else "rounded to whole numbers"
        notes = (f"{counted(fractions, 'floating-point image')} {done}.", *notes)
    if resized:
        notes = (f"{counted(resized, 'image')} resized to {options.size}×{options.size} pixels.", *notes)
    found = {split: Split(images[split], numbers[split]) for split in splits}
    return ImageSet(classes, found, {"resized": resized} if resized else {}, notes)


def _name(folder: Folder, split: str) -> str:
    return f"{folder.path}: the images" if split == "all" else f"{folder.path}: the {split} images"


def _load(folder: Folder, files: list[str]) -> dict[Role, np.ndarray]:
    arrays: dict[Role, np.ndarray] = {}
    owners: dict[Role, str] = {}
    for file in files:
        for key, array in _load_file(folder, file):
            role = _role(key)
            if role is None:
                continue
            owner = f"{file}/{key}" if folder.format(file) == "mat" else file
            if role in arrays:
                raise DataError(
                    f"{folder.path} contains two arrays for the same purpose: {owners[role]} and {owner}. "
                    "Pass the folder or file of one data set with --source."
                )
            arrays[role], owners[role] = np.array(array), owner
    return arrays


def _load_file(folder: Folder, file: str) -> Iterator[tuple[str, np.ndarray]]:
    where, path = folder.describe(file), folder.local(file)
    match folder.format(file):
        case "npy":
            yield PurePosixPath(file).stem, _load_npy(path, where)
        case "idx":
            yield PurePosixPath(file).name, load_idx(path, where)
        case _:
            yield from load_mat(path, where, lambda name: _role(name) is not None).items()


def _load_npy(path: Path, where: str) -> np.ndarray:
    try:
        # A memory map allocates nothing for a false header; np.load would open a zip as an .npz.
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        if "Python objects" in str(error):
            raise DataError(
                f"{where} contains Python objects, which are not supported. Save names as text: "
                "np.array(names, dtype=str)."
            ) from None
        raise DataError(f"{where} is not an array: {error}.") from error
    return array


def load_idx(path: Path, where: str) -> np.ndarray:
    """Read an array of bytes in IDX, the format of MNIST."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    axes = content[3] if len(content) > 3 else 0
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, 4 + 4 * axes, 4))
    size = int(np.prod(shape, dtype=object)) if shape else 0
    start = 4 + 4 * axes
    if content[:3] != b"\0\0\x08" or not 1 <= axes <= 4 or len(content) != start + size:
        raise DataError(
            f"{where} has {len(content):,} bytes and starts with {content[:16].hex()}, expected an IDX file: "
            "000008, the number of axes, their lengths, and as many bytes."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def load_mat(
    path: Path, where: str, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, np.ndarray]:
    """Read the arrays of a MATLAB file (version 5 to 7) whose names are `wanted`."""
    import scipy.io

    with open(path, "rb") as file:
        if formats.format_of(file.read(formats.HEAD_BYTES)) == "hdf5":
            raise DataError(
                f"{where} is a MATLAB file of version 7.3 or another HDF5 file, which is not supported. "
                "Save it in MATLAB with save(FILE, '-v7')."
            )
    try:
        plain = {"uint8", "uint16", "uint32", "int32", "int64", "double", "single", "cell", "char"}
        listed = scipy.io.whosmat(path)
        kept = [name for name, _, kind in listed if wanted(name) and kind in plain]
        declared = sum(int(np.prod(shape, dtype=object)) for name, shape, _ in listed if name in kept)
        if declared > MAX_BYTES:
            raise DataError(f"{where} declares {declared:,} values, expected at most {MAX_BYTES:,}.")
        loaded = scipy.io.loadmat(path, variable_names=kept)
    except DataError:
        raise
    except Exception as error:  # scipy's reader raises all kinds of exceptions for damaged files.
        raise DataError(f"{where} is not a MATLAB file, or is damaged: {error}.") from error
    return {name: value for name, value in loaded.items() if name in kept}


def _role(key: str) -> Role | None:
    """The split and the kind of an array, by the words in its name."""
    plain = re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower()
    words = {word for word in re.split(r"[^a-z0-9]+", plain) if word}
    split = split_of(words)
    if key.lower() in _CLASS_NAMES:
        return "all", "names"
    if words & set(LABEL_WORDS):
        return split, "labels"
    return (split, "images") if words & set(IMAGE_WORDS) else None


def _by_row(array: np.ndarray, options: ReadOptions, where: str) -> np.ndarray:
    """Reshape an array of images from any common layout to [N, H, W, C]."""
    height, width, channels = options.preprocessing.image_shape
    count = len(array) if array.ndim else 0
    if array.ndim == 2 and array.shape[1] == height * width * channels:
        # Channel by channel, as in the official CIFAR archives.
        array = array.reshape(count, channels, height, width).transpose(0, 2, 3, 1)
    elif array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or count == 0:
        raise DataError(
            f"{where} are {array.dtype} {array.shape}, expected N×{height}×{width}×{channels} or "
            f"N×{height * width * channels:,}."
        )
    return array


def _scale(images: Mapping[str, np.ndarray], where: str) -> int:
    """The factor for pixels that are not uint8, the same for all splits: 255 if they are 0 to 1, else 1."""
    others = [array for array in images.values() if array.dtype != np.uint8]
    if not others:
        return 1
    low = min(float(array.min()) for array in others)
    high = max(float(array.max()) for array in others)
    if not (low >= 0 and high <= 255):
        raise DataError(
            f"{where}: the images have values from {low:g} to {high:g}, expected 0 to 255, or 0 to 1."
        )
    return 255 if high <= 1 else 1


def _to_uint8(array: np.ndarray, scale: int) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    return np.rint(np.asarray(array, np.float32) * scale).astype(np.uint8)


def _sized(images: np.ndarray, options: ReadOptions, where: str) -> np.ndarray:
    """Resize images to --size, or check that they have the size of the data set."""
    height, width, channels = images.shape[1:]
    shape = f"{height}×{width}×{channels}"
    if options.spec is not None:
        if images.shape[1:] != options.spec.image_shape:
            wanted = "×".join(map(str, options.spec.image_shape))
            raise DataError(
                f"{where} are {shape}, expected {wanted} for {options.spec.title}. Choose another --dataset."
            )
        return images
    if options.size is None:
        if not (min(height, width) >= MIN_SIZE and max(height, width) <= MAX_SIZE):
            raise DataError(
                f"{where} are {shape}, expected {MIN_SIZE} to {MAX_SIZE} pixels a side. "
                "Pass --size 32 to resize them."
            )
        return images
    if (height, width) == (options.size, options.size):
        return images
    target = Preprocessing((options.size, options.size, channels), options.resize)
    rows = images[..., 0] if channels == 1 else images
    return np.stack([target.resize_image(Image.fromarray(image)) for image in rows])
