"""Export a run: write each artefact to a temporary folder, verify it, then publish all or none."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.artefacts.baseline import make_baseline
from cifar_trainer.artefacts.card import CARD_FILE, format_card
from cifar_trainer.artefacts.formats import FORMATS, Format, check_packages, get_format, write_artefact
from cifar_trainer.artefacts.gate import FILES, IMAGES, MIN_IMAGES, Reference, encode_in_turn, prove
from cifar_trainer.artefacts.manifest import (
    MANIFEST_FILE,
    Accuracy,
    Data,
    Export,
    Manifest,
    Training,
    describe_export,
    describe_input,
    installed_versions,
    printable_name,
)
from cifar_trainer.errors import CheckError, RunError, UsageError
from cifar_trainer.recipes import RECIPES, is_splittable
from cifar_trainer.results import Result
from cifar_trainer.run import Run, is_run_folder, open_run

if TYPE_CHECKING:
    import keras

    from cifar_trainer.data.dataset import Dataset, Split
    from cifar_trainer.metrics import Thresholds
    from cifar_trainer.model import LogitsFunction, Network
    from cifar_trainer.settings import Settings

#: Number of training images that calibrate int8; TensorFlow's guide recommends 100 to 500.
_EXAMPLES = 500
#: Number of images on which the effect of rounding is measured.
_ROUNDED_IMAGES = 500
#: Allowed difference between the accuracy in float32 and that in the training precision.
_PRECISION_ACCURACY = 0.01


@dataclasses.dataclass(frozen=True)
class ExportReport(Result):
    """The published artefacts of an export.

    Attributes:
        run_dir: the run's folder.
        exports: one per format, in the requested order.
        output: folder of the artefacts, manifest.json and model_card.md.
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
    format: str | Sequence[str] = "saved_model",
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    force: bool = False,
    verbose: bool = False,
    on_progress: Callable[[str], None] = lambda text: None,
) -> ExportReport:
    """Export a run's model. Each artefact is verified against Keras by its own runtime on real images.

    All formats are published, or none. If the run's validation images are the test set, the export is
    recorded as a look at it.

    Args:
        run: the run's folder; by default, the newest run with a model.
        format: one or several names of `FORMATS`.
        output: the folder to write into; by default, RUN/export.
        data_dir: the data folder; by default, the one that the run used.
        force: replace existing artefacts.
        verbose: show TensorFlow's own messages.
        on_progress: called with a description of each step.

    Raises:
        UsageError: a format is unknown or refused for the run's recipe, or none is given; or `output` is a
            run's folder.
        DataError: the run's data are missing or have changed.
        RunError: the run does not exist, has no model, or has a damaged file; an artefact exists
            already; or `output` cannot be written.
        CifarTrainerError: a format needs a package that is not installed, or does not support this network.
        CheckError: an artefact does not agree with the Keras model. Nothing is published.
    """
    chosen = [get_format(name) for name in dict.fromkeys([format] if isinstance(format, str) else format)]
    if not chosen:
        raise UsageError(f"--format is empty. Choose from {', '.join(FORMATS)}.")
    opened = open_run(run, with_model=True)
    folder = opened.export if output is None else Path(output)
    if is_run_folder(folder):
        raise UsageError(
            f"--output {folder} is a run's folder, and an export could replace its model. Choose another "
            f"--output, or leave it out to write into {opened.export}."
        )
    check_packages(chosen)
    _check_targets(chosen, folder, force)
    config = opened.read_config()
    _check_recipe(chosen, config)
    dataset = opened.load_data(data_dir)
    # The gate allows 1e-4 of a logit; a GPU's TF32 alone differs by more.
    devices.start(config, split=is_splittable(config), device="cpu", verbose=verbose)
    with files.writing(opened.path, "Free some disk space, or make the run's folder writable."):
        measured = measure_model(opened, config, dataset)
    examples = np.ascontiguousarray(dataset.train.images[_spread(len(dataset.train), _EXAMPLES)])
    with files.writing(folder, "Free some disk space, or choose another --output."), _folder(folder):
        replaced = [form.file_name for form in chosen] if force else []
        with files.atomic_group(folder, replace=(MANIFEST_FILE, CARD_FILE, *replaced)) as partial:
            exports = tuple(
                _write(form, partial / form.file_name, measured, examples, on_progress) for form in chosen
            )
            manifest = make_manifest(opened, dataset, measured, exports).with_earlier(folder)
            files.write_json(partial / MANIFEST_FILE, dataclasses.asdict(manifest))
            files.write_text(partial / CARD_FILE, format_card(manifest))
    placed = tuple(dataclasses.replace(each, path=str(folder / each.path)) for each in exports)
    return ExportReport(str(opened.path), placed, str(folder))


def _write(
    form: Format,
    path: Path,
    measured: "MeasuredModel",
    examples: np.ndarray,
    on_progress: Callable[[str], None],
) -> Export:
    if form.is_folder:
        path.mkdir()
    on_progress(f"{form.name}: writing")
    write_artefact(form, measured.network, path, examples)
    on_progress(f"{form.name}: verifying on {len(measured.reference.labels):,} images")
    return describe_export(form, path, prove(path, form, measured.reference, measured.encoded))


def _check_recipe(formats: Sequence[Format], config: "Settings") -> None:
    """Raise UsageError for a format in which the recipe's network cannot pass."""
    recipe = None if config.recipe_sha256 else RECIPES.get(config.recipe)
    for form in formats:
        if recipe is not None and form.name in recipe.refused_formats:
            raise UsageError(
                f"--format {form.name} is not available for the recipe {recipe.name}: the network cannot be "
                "converted, or its predictions change too much. Choose another --format, such as saved_model."
            )


def _check_targets(formats: Sequence[Format], output: Path, replace: bool) -> None:
    """Raise RunError if a target exists and may not be replaced, or is not an artefact."""
    paths = {output / form.file_name: form for form in formats if os.path.lexists(output / form.file_name)}
    if paths and not replace:
        exist, them = ("exists", "it") if len(paths) == 1 else ("exist", "them")
        raise RunError(
            f"{', '.join(map(str, paths))} already {exist}. Replace {them} with --force, or choose another "
            "--output."
        )
    for path, form in paths.items():
        if path.exists() and path.is_dir() != form.is_folder:
            actual, expected = ("folder", "file") if path.is_dir() else ("file", "folder")
            raise RunError(
                f"{path} is a {actual}; expected the {expected} of an earlier export. Remove it, or choose "
                "another --output."
            )


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder; on an exception, remove it if it is new and empty."""
    new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A run's network, with the answers that its artefacts are compared with.

    Attributes:
        network: the network in float32.
        epochs: number of training epochs.
        weights_sha256: hash of the weights as trained.
        reference: images and Keras's answers, for the gate.
        encoded: the same for image files of every kind, for formats that decode files.
        accuracy: accuracy on the whole split.
        thresholds: thresholds for unfamiliar images from `evaluate`, if any.
    """

    network: "Network"
    epochs: int
    weights_sha256: str
    reference: Reference
    encoded: Reference
    accuracy: Accuracy
    thresholds: "Thresholds | None"


def measure_model(run: Run, config: "Settings", dataset: "Dataset") -> MeasuredModel:
    """Load a run's network and classify its validation split with Keras.

    If that split is the test set (--validation test), this is a look at the test set, and is recorded.

    Raises:
        RunError: the model, its result, or the report with the temperature cannot be read.
        CheckError: a model trained in mixed precision has a different accuracy in float32.
        OSError: the look at the test set cannot be recorded.
    """
    from cifar_trainer import metrics
    from cifar_trainer.data.splits import split_for
    from cifar_trainer.images import Preprocessing
    from cifar_trainer.model import (
        LogitsFunction,
        Network,
        is_float32,
        load_model,
        to_float32,
        weights_sha256,
    )

    _, split = split_for(dataset, config)
    trained = load_model(run.model)
    digest = weights_sha256(trained)
    result = run.read_result()
    run.check_weights(result, digest)
    if config.validation == "test":
        run.record_look("export", result.epochs)
    preprocessing = run.read_data().preprocessing or Preprocessing(dataset.image_shape)
    network = Network(to_float32(trained), dataset.classes, preprocessing, run.read_temperature(digest))
    predict_logits = LogitsFunction(network.model)
    logits = predict_logits(split.images)
    value = metrics.accuracy(logits, split.labels)
    if not is_float32(trained):
        _check_precision(metrics.accuracy(LogitsFunction(trained)(split.images), split.labels), value)
    low, high = metrics.wilson_interval(round(value * len(split)), len(split))
    reference = _reference(network, split, logits, dataset.train, predict_logits)
    return MeasuredModel(
        network,
        result.epochs,
        digest,
        reference,
        _encoded_reference(reference, network, predict_logits),
        Accuracy(config.validation, len(split), value, low, high, is_selected_on(config)),
        run.read_thresholds(digest),
    )


def is_selected_on(config: "Settings") -> bool:
    """Whether the validation images influenced the weights."""
    return config.keep == "best" or config.patience is not None or config.schedule == "plateau"


def _check_precision(trained: float, accuracy: float) -> None:
    if abs(accuracy - trained) > _PRECISION_ACCURACY:
        raise CheckError(
            f"The model's accuracy is {accuracy:.2%} in float32, but {trained:.2%} in its training "
            f"precision; expected a difference of at most {_PRECISION_ACCURACY:.0%}. Nothing was exported."
        )


def _reference(
    network: "Network", split: "Split", logits: np.ndarray, train: "Split", predict_logits: "LogitsFunction"
) -> Reference:
    images, labels = split.images, np.asarray(split.labels)
    if len(split) < MIN_IMAGES:
        # Too few images for a proof. To compare two programs, training images serve as well.
        more = _spread(len(train), MIN_IMAGES - len(split))
        images = np.concatenate([images, train.images[more]])
        labels = np.concatenate([labels, train.labels[more]])
        logits = np.concatenate([logits, predict_logits(train.images[more])])
    # Shuffle: the first images become files, and could all be of one class.
    order = np.random.default_rng(0).permutation(len(labels))[:IMAGES]
    images, logits = np.ascontiguousarray(images[order]), logits[order]
    return Reference(
        images=images,
        labels=labels[order],
        logits=logits,
        classes=network.classes,
        temperature=network.temperature,
        rounding=_rounding(network.model, images, logits, predict_logits),
    )


def _rounding(
    model: "keras.Model", images: np.ndarray, logits: np.ndarray, predict_logits: "LogitsFunction"
) -> float:
    """The largest difference of a logit if each weight is moved to a neighbouring float32 number.

    Converters and runtimes make errors of this size when they merge layers or add in another order. A network
    whose statistics of batch normalization are wrong, after a few steps of training, amplifies them.
    """
    weights, draw = model.get_weights(), np.random.default_rng(0)
    towards = np.array([-np.inf, np.inf], np.float32)
    model.set_weights([np.nextafter(each, draw.choice(towards, each.shape)) for each in weights])
    moved = predict_logits(images[:_ROUNDED_IMAGES])
    model.set_weights(weights)
    return float(np.abs(moved - logits[:_ROUNDED_IMAGES]).max())


def _encoded_reference(
    reference: Reference, network: "Network", predict_logits: "LogitsFunction"
) -> Reference:
    """The first images as files of every kind, with Keras's answers to the decoded pixels."""
    first = reference.first(FILES)
    contents = encode_in_turn(first.images)
    images = np.stack([network.preprocessing.decode(content).pixels for content in contents])
    return dataclasses.replace(first, images=images, logits=predict_logits(images), files=tuple(contents))


def _spread(length: int, count: int) -> np.ndarray:
    """Up to `count` evenly spaced indices below `length`: int64 [count]."""
    return np.linspace(0, length - 1, min(length, count)).round().astype(np.int64)


def make_manifest(
    run: Run, dataset: "Dataset", measured: MeasuredModel, exports: Sequence[Export]
) -> Manifest:
    """Describe the run, its data, the model and its exports."""
    config, network, reference = run.read_config(), measured.network, measured.reference
    return Manifest(
        run=Training(
            name=printable_name(run.path),
            epochs=measured.epochs,
            recipe=config.recipe,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            precision=config.precision,
            validation=config.validation,
            limit=config.limit,
            weights_sha256=measured.weights_sha256,
        ),
        data=Data(
            name=dataset.name,
            title=dataset.title,
            verified=dataset.verified,
            train_fingerprint=dataset.train.fingerprint,
            test_fingerprint=dataset.test.fingerprint,
            verified_by=dataset.verified_by,
        ),
        classes=network.classes,
        parameters=network.model.count_params(),
        input=describe_input(network.preprocessing),
        preprocessing=network.preprocessing,
        temperature=network.temperature,
        unfamiliar=None if measured.thresholds is None else dataclasses.asdict(measured.thresholds),
        accuracy=measured.accuracy,
        baseline=make_baseline(reference.images, reference.logits, network.temperature),
        coverage=run.read_coverage(measured.weights_sha256),
        artefacts=tuple(exports),
        versions=installed_versions(),
    )
