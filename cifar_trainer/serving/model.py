"""The served model: opened, checked against known answers, and replaced without downtime."""

import base64
import dataclasses
import gc
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.artefacts.baseline import Baseline
from cifar_trainer.artefacts.formats import FORMATS, Artefact
from cifar_trainer.artefacts.manifest import MANIFEST_FILE, Export
from cifar_trainer.artefacts.source import Source
from cifar_trainer.conformal import ClassSets
from cifar_trainer.errors import CheckError, CifarTrainerError, RunError
from cifar_trainer.images import ImageError
from cifar_trainer.metrics import Thresholds
from cifar_trainer.run import Run
from cifar_trainer.serving.monitoring import DriftMonitor

#: Tolerance for logits, and as a multiple of the difference that the export's gate found on its own machine.
_LOGIT_TOLERANCE, _DIFFERENCES = 1e-3, 10
#: Minimum share of images with the same class, for a format that changes the logits.
_AGREEMENT = 0.75
#: An export moves an artefact into place before its manifest. Until then, their SHA-256 differ.
_EXPORT_SECONDS = 30.0


class ExportUnderWayError(RunError):
    """An artefact whose SHA-256 is not the manifest's: it is damaged, or an export is under way."""


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that has passed its checks.

    Attributes:
        artefact: the opened artefact.
        version: the version in the protocols' paths. It counts the versions of this process; a SavedModel in
            a numbered folder, as TensorFlow Serving expects, starts with that number.
        source: the artefact's path, run and manifest.
        thresholds: limits beyond which an image is unfamiliar; None if none were fitted.
        sets: makes the class sets of `--coverage`; None without it.
        monitor: compares the classified images with the validation images.
        warm_up: the checks that it passed, in words.
        explainer: Grad-CAM with the same weights; None without a run.
    """

    artefact: Artefact
    version: int
    source: Source
    thresholds: Thresholds | None
    monitor: DriftMonitor
    warm_up: str
    explainer: "Explainer | None" = None
    sets: ClassSets | None = None


def settle() -> None:
    """Exempt all objects that exist now from Python's garbage collection.

    TensorFlow creates so many that a full collection stops all requests for 0.2 to 0.5 s, under load about
    once per second.
    """
    gc.collect()
    gc.freeze()


def open_model(source: Source, version: int, batch_size: int) -> ServedModel:
    """Open a model, compare its answers with the manifest's, and warm it up to `batch_size`.

    Raises:
        RunError: it cannot be opened, or is not the file that the manifest lists.
        CheckError: its answers are not those in the manifest.
        UsageError: it has no class sets of the source's coverage.
    """
    sets = source.read_sets()
    entry = None if source.manifest is None else source.manifest.find(source.path.name)
    if entry is not None:
        actual = (files.sha256_tree if source.path.is_dir() else files.sha256_file)(source.path)
        if actual != entry.sha256:
            raise ExportUnderWayError(
                f"{source.path} is not the file that {MANIFEST_FILE} lists: its SHA-256 is {actual}, "
                f"expected {entry.sha256}. Export it again with: cifar-trainer export --force"
            )
    if source.format.uses_tensorflow:
        devices.start(device="cpu")
    artefact, thresholds = source.open(), source.read_thresholds()
    baseline = source.manifest.baseline if source.manifest else None
    images = _warm_up_images(source.path, artefact, baseline)
    checked = "it classified noise; there is no manifest with answers to compare"
    if baseline is not None:
        _check_answers(source.path, artefact, baseline, images, entry)
        checked = f"its answers to {len(images)} images are those in the manifest"
    size = 1
    while size <= batch_size:
        artefact.predict(np.resize(images, (size, *artefact.image_shape)))
        size *= 2
    return ServedModel(
        artefact,
        version,
        source,
        thresholds,
        DriftMonitor(baseline, artefact.classes),
        checked,
        None if source.run is None else Explainer(source.run, source.weights_sha256),
        sets,
    )


def _warm_up_images(path: Path, artefact: Artefact, baseline: Baseline | None) -> np.ndarray:
    if baseline is None:
        return np.random.default_rng(0).integers(0, 256, (8, *artefact.image_shape), np.uint8)
    try:
        pngs = [base64.b64decode(answer.png) for answer in baseline.answers]
        return np.stack([artefact.preprocessing.decode(png).pixels for png in pngs])
    except (ImageError, ValueError) as error:
        raise RunError(
            f"{path.parent / MANIFEST_FILE} contains a damaged image: {error} "
            "Export the model again with: cifar-trainer export --force"
        ) from error


def _check_answers(
    path: Path, artefact: Artefact, baseline: Baseline, images: np.ndarray, entry: Export | None
) -> None:
    expected = np.array([answer.logits for answer in baseline.answers])
    given = artefact.predict(images).logits.astype(np.float64)
    if given.shape == expected.shape and len(baseline.class_counts) == len(artefact.classes):
        bound = FORMATS[entry.format].bound if entry is not None and entry.format in FORMATS else None
        if bound is not None and bound.difference is None:
            held = (given.argmax(axis=1) == expected.argmax(axis=1)).mean() >= _AGREEMENT
        else:
            found = 0.0 if entry is None else entry.max_abs_difference
            held = np.abs(given - expected).max() <= max(_LOGIT_TOLERANCE, _DIFFERENCES * found)
        if held:
            return
    raise CheckError(
        f"{path} does not give the answers in its {MANIFEST_FILE}: the logits of the first image are "
        f"{np.round(given[0], 3).tolist()}, expected {np.round(expected[0], 3).tolist()}. "
        "Export it again with: cifar-trainer export --force"
    )


def version_of(path: Path) -> int:
    """The version that TensorFlow Serving would give a numbered folder; 1 for other names."""
    return int(path.name) if path.name.isdecimal() else 1


class ModelHolder:
    """Holds the model in service, and replaces it.

    Attributes:
        current: the model in service.
        failure: why the newest version was refused; None if it was not.

    Args:
        find: finds the model's artefact.
        batch_size: the largest batch, in images.
    """

    def __init__(self, find: Callable[[], Source], batch_size: int) -> None:
        self._find = find
        self._batch_size = batch_size
        source = find()
        self._seen = _signature(source)
        self._found = self._seen
        self._found_at = 0.0
        self.current = open_model(source, version_of(source.path), batch_size)
        self.failure: str | None = None

    def refresh(self) -> bool:
        """Load a new version if there is one. Returns whether one was loaded or refused.

        A version is refused, and the old one stays in service, if it cannot be opened, fails its checks, or
        is another kind of model.
        """
        try:
            source = self._find()
            signature = _signature(source)
            if signature == self._seen:
                return False
            if signature != self._found:
                # If the files are still being written, they will have changed by the next look.
                self._found, self._found_at = signature, time.monotonic()
                return False
            self._seen = signature
            try:
                model = open_model(source, self.current.version + 1, self._batch_size)
            except ExportUnderWayError:
                if time.monotonic() - self._found_at < _EXPORT_SECONDS:
                    self._seen = ()  # Try it again.
                    return False
                raise
            _check_same_kind(model, self.current)
        except (CifarTrainerError, OSError) as error:
            if self.failure == str(error):
                return False
            self.failure = str(error)
            return True
        self.current, self.failure = model, None
        settle()
        return True


def _check_same_kind(new: ServedModel, old: ServedModel) -> None:
    """Raise RunError unless clients can use the new model as they used the old one."""
    for what, was, now in (
        ("images of shape", old.artefact.image_shape, new.artefact.image_shape),
        ("the classes", old.artefact.classes, new.artefact.classes),
        ("the data set", old.source.dataset, new.source.dataset),
    ):
        if tuple(was) != tuple(now):
            was_text, now_text = (", ".join(map(str, v)) if isinstance(v, tuple) else v for v in (was, now))
            raise RunError(
                f"{new.source.path} is for {what} {now_text}; the model in service is for {was_text}. "
                "Start another server for it."
            )
    if old.source.manifest is not None and new.source.manifest is None:
        raise RunError(
            f"{new.source.path} has no {MANIFEST_FILE} to check it with; the model in service has one. "
            "Copy the manifest of its export next to it."
        )


def _signature(source: Source) -> tuple[tuple[str, int, int, int], ...]:
    """Path, inode, size and time of each of an artefact's files, which change if it is replaced."""
    paths = files.files_below(source.path) if source.path.is_dir() else [source.path]
    manifest = source.path.parent / MANIFEST_FILE
    stats = []
    for path in [*paths, *([manifest] if manifest.exists() else [])]:
        status = path.stat()
        stats.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stats)


class Explainer:
    """Grad-CAM with a run's Keras model, which is loaded on the first call.

    Args:
        run: the run.
        weights_sha256: the weights in service; the run's model explains only those. None skips the check.
    """

    def __init__(self, run: Run, weights_sha256: str | None) -> None:
        self._run = run
        self._weights_sha256 = weights_sha256
        self._grad_cam: Any = None
        self._lock = threading.Lock()

    def explain(self, image: np.ndarray, class_id: int) -> np.ndarray | None:
        """How much each part of an image, uint8 [H, W, C], led to the class: float32 [H, W] from 0 to 1.

        None if the network has no feature map, or if the run's weights are not those in service.
        """
        with self._lock:
            if self._grad_cam is None:
                devices.start(device="cpu")
                from cifar_trainer.evaluation.gradcam import GradCam
                from cifar_trainer.model import load_model, to_float32, weights_sha256

                model = load_model(self._run.model)
                same = self._weights_sha256 in (None, weights_sha256(model))
                self._grad_cam = GradCam(to_float32(model)) if same else lambda images, classes: None
                settle()
            maps = self._grad_cam(image[None], [class_id])
        return None if maps is None else maps[0]
