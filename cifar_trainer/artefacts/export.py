"""Export a run: write beside the place, verify, and only then put in place, all formats or none."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.artefacts.documents import Export, describe_export, write_documents
from cifar_trainer.artefacts.formats import (
    Format,
    check_packages,
    check_targets,
    get_format,
    write_artefact,
)
from cifar_trainer.artefacts.verification import prove
from cifar_trainer.recipes import is_splittable
from cifar_trainer.results import Result
from cifar_trainer.run import open_run

if TYPE_CHECKING:
    from cifar_trainer.artefacts.measurement import MeasuredModel

#: Images of the training split by which int8 sets its ranges; TensorFlow's guide asks for 100 to 500.
_EXAMPLES = 500


@dataclasses.dataclass(frozen=True)
class ExportReport(Result):
    """What an export has put in place.

    Attributes:
        run_dir: the run's folder.
        exports: one for each format, in the order asked for.
        output: the folder that holds them, with manifest.json and model_card.md.
    """

    run_dir: str
    exports: tuple[Export, ...]
    output: str

    def to_json(self) -> dict[str, Any]:
        """What `export --json` prints."""
        return {"run_dir": self.run_dir, "exports": [export.to_json() for export in self.exports]}


def export(
    run: str | Path | None = None,
    *,
    formats: Sequence[str] = ("saved_model",),
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    force: bool = False,
    verbose: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a run's model, each artefact verified against Keras by its own runtime on real images.

    All formats are put in place, or none. An export that measures on the test set, as it does unless
    the run held images out, is recorded as a look at it.

    Args:
        run: the run's folder; None is the newest run.
        formats: names of `FORMATS`.
        output: the folder to write into; None is RUN/export.
        data_dir: where the data lie; None is where the run found them.
        force: replace artefacts that stand there.
        verbose: show TensorFlow's own messages.
        on_progress: called with what is being done.

    Raises:
        UsageError: a format is not known, or none is given.
        DataError: the run's data are missing or have changed.
        RunError: there is no such run, it has no model, one of its files is damaged, an artefact
            stands there already, or `output` cannot be written.
        CifarTrainerError: a format needs a package that is not installed, or cannot hold this network.
        CheckError: an artefact does not agree with the Keras model. Nothing is put in place.
    """
    chosen = [get_format(name) for name in dict.fromkeys(formats)]
    opened = open_run(run, with_model=True)
    folder = opened.export if output is None else Path(output)
    check_packages(chosen)
    check_targets(chosen, folder, force)
    config = opened.read_config()
    dataset = opened.load_data(data_dir)
    # The gate asks for 1e-4 of a logit; a GPU's TF32 alone would be further off.
    devices.start(config, split=is_splittable(config), device="cpu", verbose=verbose)
    # TensorFlow is imported by it, and must be set up before.
    from cifar_trainer.artefacts.measurement import measure_model, spread

    with files.writing(opened.path, "Make room, or give write access to the run's folder."):
        measured = measure_model(opened, config, dataset)
    examples = np.ascontiguousarray(dataset.train.images[spread(len(dataset.train), _EXAMPLES)])
    with files.writing(folder, "Make room, or choose another --output."):
        exports = _export(chosen, folder, measured, examples, force, on_progress)
        write_documents(opened, folder, dataset, measured, exports)
    return ExportReport(str(opened.path), exports, str(folder))


def _export(
    formats: Sequence[Format],
    output: Path,
    measured: "MeasuredModel",
    examples: np.ndarray,
    replace: bool,
    on_progress: Callable[[str], None],
) -> tuple[Export, ...]:
    proofs = {}
    # The artefacts get their names when the block ends without an exception.
    with _folder(output), contextlib.ExitStack() as stack:
        for form in formats:
            partial = stack.enter_context(_staged(form, output, replace))
            on_progress(f"{form.name}: writing")
            write_artefact(form, measured.network, partial, examples)
            on_progress(f"{form.name}: verifying on {len(measured.reference.labels):,} images")
            proofs[form.name] = prove(partial, form, measured.reference, measured.encoded)
    return tuple(describe_export(form, output / form.file_name, proofs[form.name]) for form in formats)


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
