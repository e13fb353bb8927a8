"""TensorFlow's start: quiet, on Keras's TensorFlow backend, with threads that are known."""

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator

from cifar_trainer.environment.machine import usable_cores


@dataclasses.dataclass(frozen=True)
class Threads:
    """TensorFlow's threads.

    Attributes:
        inter_op: operations that run side by side.
        intra_op: threads inside one operation.
    """

    inter_op: int
    intra_op: int


def load_tensorflow(verbose: bool = False) -> None:
    """Import TensorFlow and Keras, without their chatter unless `verbose`.

    TF_CPP_MIN_LOG_LEVEL is not enough: what is logged before TensorFlow has set up its
    log goes to stderr regardless (seen with 2.21). So file descriptor 2 is captured for
    the import and the first listing of the devices; where that fails, it is shown.
    """
    # Read once, at the import. The training loop is TensorFlow's, whatever other projects use.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if verbose:
        _import()
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with _captured_stderr():
        _import()


def _import() -> None:
    import keras
    import tensorflow as tf

    # ~/.keras/keras.json may say otherwise for other projects.
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    tf.config.list_physical_devices()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[None]:
    """Keep what is written to file descriptor 2; show it only if the block fails."""
    try:
        kept = os.dup(2)
    except OSError:
        # Closed: nobody reads it anyway.
        yield
        return
    with tempfile.TemporaryFile() as file:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        except Exception:
            os.dup2(kept, 2)
            file.seek(0)
            os.write(2, file.read())
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def configure_threads(*, split: bool) -> Threads:
    """Two operations side by side; returns what is in force.

    Where TensorFlow has started already, its threads stay as they are.

    Args:
        split: whether the two are the halves of a batch, and have half of the cores each. Else
            the greater part is one operation after the other, and each has all.
    """
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_inter_op_parallelism_threads(2)
        cores = usable_cores()
        tf.config.threading.set_intra_op_parallelism_threads(max(1, cores // 2) if split else cores)
    return threads()


def threads() -> Threads:
    """TensorFlow's threads as they are set; 0 leaves the number to TensorFlow."""
    import tensorflow as tf

    return Threads(
        tf.config.threading.get_inter_op_parallelism_threads(),
        tf.config.threading.get_intra_op_parallelism_threads(),
    )


def enable_determinism() -> None:
    """From here on TensorFlow runs only operations that give the same bits each time."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
