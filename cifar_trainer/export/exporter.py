"""Exporting a run: write beside the place, prove, and only then put in place, all formats or none."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from cifar_trainer import files
from cifar_trainer.data.dataset import Dataset
from cifar_trainer.errors import RunError
from cifar_trainer.export.formats import Format
from cifar_trainer.export.gate import prove
from cifar_trainer.export.manifest import Export, describe, write_documents
from cifar_trainer.export.reference import measure, spread
from cifar_trainer.export.writers import write_artefact
from cifar_trainer.run import Run

#: Pictures of the training split by which int8 sets its ranges; TensorFlow's guide asks for 100 to 500.
_EXAMPLES = 500


def export_run(
    run: Run,
    formats: Sequence[Format],
    output: Path,
    dataset: Dataset,
    *,
    replace: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> list[Export]:
    """Export a run's model in each of `formats` into the folder `output`.

    The caller has passed `check_model` and what `preconditions` checks.

    Raises:
        RunError: the model cannot be read, or `output` cannot be written.
        CheckError: an artefact does not agree with the Keras model. Nothing is put in place.
    """
    measured = measure(run, run.read_config(), dataset)
    examples = np.ascontiguousarray(dataset.train.images[spread(len(dataset.train), _EXAMPLES)])
    proofs = {}
    try:
        # The artefacts get their names when the block ends without an exception.
        with _folder(output), contextlib.ExitStack() as stack:
            for form in formats:
                partial = stack.enter_context(_staged(form, output, replace))
                on_progress(f"{form.name}: writing")
                write_artefact(form, measured.network, partial, examples)
                on_progress(f"{form.name}: proving on {len(measured.reference.labels):,} pictures")
                proofs[form.name] = prove(partial, form, measured.reference)
        exports = [describe(form, output / form.file_name, proofs[form.name]) for form in formats]
        write_documents(run, output, dataset, measured, exports)
    except (OSError, tf.errors.OpError) as error:
        raise RunError(
            f"{output} cannot be written: {error}. Make room, or choose another --output."
        ) from error
    return exports


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder; an exception takes it away again if it is new and holds nothing."""
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _staged(form: Format, output: Path, replace: bool) -> Iterator[Path]:
    target = output / form.file_name
    if form.is_folder:
        with files.atomic_folder(target, replace=replace) as partial:
            yield partial
    else:
        with files.atomic_path(target) as partial:
            yield partial
