"""The model that is served: opened, proved by known answers, and replaced while requests go on."""

import base64
import dataclasses
import importlib.util
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cifar_trainer import devices, files
from cifar_trainer.artefacts.baseline import Baseline
from cifar_trainer.artefacts.formats import (
    FORMATS,
    MANIFEST_FILE,
    Artefact,
    Format,
    kind_of,
    open_artefact,
    recognize,
    served_formats,
)
from cifar_trainer.errors import CheckError, CifarTrainerError, RunError
from cifar_trainer.metrics import Thresholds
from cifar_trainer.run import Run, open_run

#: Of logits against those of the manifest. The export's gate allows 1e-4 on its own machine.
_LOGIT_TOLERANCE = 1e-3
#: The least share of same classes where a format does not keep the logits.
_AGREEMENT = 0.75


@dataclasses.dataclass(frozen=True)
class _Entry:
    format: str
    path: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class _ManifestRun:
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class _ManifestData:
    name: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What of an export's manifest a server needs."""

    run: _ManifestRun
    data: _ManifestData
    artefacts: tuple[_Entry, ...]
    unfamiliar: Thresholds | None = None
    baseline: Baseline | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a model is served from.

    Attributes:
        path: the artefact, or a run's `model.keras`.
        run: the run that it belongs to; None where it was named by its path.
        manifest: of the export that it lies in; None where there is none.
    """

    path: Path
    run: Run | None
    manifest: Manifest | None

    @property
    def dataset(self) -> str:
        """The name of the data set that it was trained on, or `cifar10` where nothing tells."""
        if self.manifest is not None:
            return self.manifest.data.name
        return "cifar10" if self.run is None else self.run.read_data().name


def find_source(run: Path | None, model: Path | None) -> Source:
    """Choose what to serve: `model`, or the fastest artefact of the run, or the run's own model.

    Raises:
        RunError: there is no such run or artefact.
    """
    if model is not None:
        kind_of(model)
        return Source(model, None, _read_manifest(model.parent))
    opened = open_run(run, with_model=True)
    manifest = _read_manifest(opened.export)
    if manifest is not None and manifest.run.weights_sha256 == opened.read_result().weights_sha256:
        exported = {entry.format: opened.export / entry.path for entry in manifest.artefacts}
        for form in served_formats():
            path = exported.get(form.name)
            if path is not None and path.exists() and _runtime_is_there(form):
                return Source(path, opened, manifest)
    return Source(opened.model, opened, None)


def _read_manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST_FILE
    return files.read_json(path, Manifest) if path.is_file() else None


def _runtime_is_there(form: Format) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in form.packages)


@dataclasses.dataclass(frozen=True, eq=False)
class ServedModel:
    """A model that has answered what it should.

    Attributes:
        artefact: opened by its runtime.
        version: 1, and one more each time that a new one is taken up.
        source: where it comes from.
        thresholds: beyond which an image is unfamiliar; None where none were fitted.
        baseline: how it answers ordinary images; None where no manifest tells.
        warm_up: what was checked before it was ready, as a sentence.
    """

    artefact: Artefact
    version: int
    source: Source
    thresholds: Thresholds | None
    baseline: Baseline | None
    warm_up: str


def open_model(source: Source, version: int, batch_size: int) -> ServedModel:
    """Open a model and let it answer images of each batch size from 1 to `batch_size`, by powers of two.

    Where the manifest holds known answers, they are compared with these.

    Raises:
        RunError: it cannot be opened, or its files are not those that the manifest lists.
        CheckError: it does not give the answers that the manifest holds.
    """
    entry = _entry(source)
    if entry is not None:
        actual = (files.sha256_tree if source.path.is_dir() else files.sha256_file)(source.path)
        if actual != entry.sha256:
            raise RunError(
                f"{source.path} is not what its {MANIFEST_FILE} lists: its SHA-256 is {actual}, expected "
                f"{entry.sha256}. Make it anew with: cifar-trainer export --force"
            )
    if recognize(source.path).uses_tensorflow:
        devices.start(device="cpu")
    if source.run is not None and source.path == source.run.model:
        from cifar_trainer.artefacts.keras import open_run_model

        artefact = open_run_model(source.run)
        thresholds = source.run.read_thresholds(source.run.read_result().weights_sha256)
    else:
        artefact = open_artefact(source.path)
        thresholds = source.manifest.unfamiliar if source.manifest else None
    baseline = source.manifest.baseline if source.manifest else None
    images = _warm_up_images(artefact, baseline)
    checked = "it answered images of noise; no manifest holds answers to compare with"
    if baseline is not None:
        _check_answers(source.path, artefact, baseline, images, entry)
        checked = f"its answers to {len(images)} images are those of the manifest"
    size = 1
    while size <= batch_size:
        artefact.predict(np.resize(images, (size, *artefact.image_shape)))
        size *= 2
    return ServedModel(artefact, version, source, thresholds, baseline, checked)


def _entry(source: Source) -> _Entry | None:
    if source.manifest is None:
        return None
    return next((e for e in source.manifest.artefacts if e.path == source.path.name), None)


def _warm_up_images(artefact: Artefact, baseline: Baseline | None) -> np.ndarray:
    if baseline is None:
        return np.random.default_rng(0).integers(0, 256, (8, *artefact.image_shape), np.uint8)
    pngs = [base64.b64decode(answer.png) for answer in baseline.answers]
    return np.stack([artefact.preprocessing.decode(png).pixels for png in pngs])


def _check_answers(
    path: Path, artefact: Artefact, baseline: Baseline, images: np.ndarray, entry: _Entry | None
) -> None:
    expected = np.array([answer.logits for answer in baseline.answers])
    given = artefact.predict(images).logits
    if given.shape == expected.shape:
        bound = FORMATS[entry.format].bound if entry is not None and entry.format in FORMATS else None
        if bound is not None and bound.difference is None:
            held = (given.argmax(axis=1) == expected.argmax(axis=1)).mean() >= _AGREEMENT
        else:
            held = np.abs(given - expected).max() <= _LOGIT_TOLERANCE
        if held:
            return
    raise CheckError(
        f"{path} does not answer as its {MANIFEST_FILE} says: for the first image it gives the logits "
        f"{np.round(given[0], 3).tolist()}, expected {np.round(expected[0], 3).tolist()}. "
        "Export it again with: cifar-trainer export --force"
    )


class ModelHolder:
    """The model in service, and what takes its place.

    Attributes:
        current: the model that answers.
        failure: why the newest version was not taken up; None where it was.
    """

    def __init__(self, find: Callable[[], Source], batch_size: int) -> None:
        self._find = find
        self._batch_size = batch_size
        source = find()
        self._seen = _signature(source)
        self.current = open_model(source, 1, batch_size)
        self.failure: str | None = None

    def refresh(self) -> bool:
        """Take up a new version if there is one, and say whether one was looked at.

        A version that cannot be opened or does not answer as it should is left; the old one goes on.
        """
        try:
            source = self._find()
            signature = _signature(source)
            if signature == self._seen:
                return False
            # Still being written? Then it will look different in a moment.
            time.sleep(0.05)
            if _signature(self._find()) != signature:
                return False
            self._seen = signature
            model = open_model(source, self.current.version + 1, self._batch_size)
            was, now = self.current.artefact, model.artefact
            if now.image_shape != was.image_shape:
                raise RunError(
                    f"{source.path} takes images of {now.image_shape}, the model in service of "
                    f"{was.image_shape}. Start a server of its own for it."
                )
        except (CifarTrainerError, OSError) as error:
            if self.failure == str(error):
                return False
            self.failure = str(error)
            return True
        self.current, self.failure = model, None
        return True


def _signature(source: Source) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when an artefact is replaced: name, inode, size and time of each of its files."""
    paths = files.files_below(source.path) if source.path.is_dir() else [source.path]
    manifest = source.path.parent / MANIFEST_FILE
    found = []
    for path in [*paths, *([manifest] if manifest.exists() else [])]:
        status = path.stat()
        found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


class Explainer:
    """Grad-CAM by a run's own Keras model, which is loaded at the first call.

    Args:
        run: whose model explains.
        on_load: called once it is loaded.
    """

    def __init__(self, run: Run, on_load: Callable[[], None] = lambda: None) -> None:
        self._run = run
        self._on_load = on_load
        self._model: object = None
        self._lock = threading.Lock()

    def explain(self, image: np.ndarray, class_id: int) -> np.ndarray | None:
        """Which parts of an image, uint8 [H, W, C], led to the class: float32 [H, W] from 0 to 1.

        None where the network has no feature map.
        """
        with self._lock:
            if self._model is None:
                devices.start(device="cpu")
                from cifar_trainer.model import load_model, to_float32

                self._model = to_float32(load_model(self._run.model))
                self._on_load()
            from cifar_trainer.evaluation.gradcam import grad_cam

            maps = grad_cam(self._model, image[None], [class_id])
        return None if maps is None else maps[0]
