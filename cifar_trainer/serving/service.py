"""What all protocols share: decoding, classification, metrics, and background tasks."""

import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import logging
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cifar_trainer import files
from cifar_trainer.images import DecodedImage, ImageError, encode_png
from cifar_trainer.metrics import energy, max_probability
from cifar_trainer.serving.batching import Batcher
from cifar_trainer.serving.errors import bad_request
from cifar_trainer.serving.model import ModelHolder, ServedModel
from cifar_trainer.serving.monitoring import DriftReport, Metrics
from cifar_trainer.serving.settings import Settings

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Threads that decode bodies and images. An image of 16 million pixels takes about 130 MB, with copies.
_DECODERS = 4
_DRIFT_SECONDS = 15.0
_WEBHOOK_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """The model's answers to N images.

    Attributes:
        model: the model that answered.
        logits: float32 [N, classes].
        probabilities: float32 [N, classes], calibrated if a temperature was fitted.
        class_id: int64 [N].
        energy, max_probability: float64 [N], scores of unfamiliarity; see `metrics.Thresholds`.
        unfamiliar: bool [N]; None if no thresholds were fitted.
        in_set: whether each class is in the set of each image, bool [N, classes]; None without --coverage.
    """

    model: ServedModel
    logits: np.ndarray
    probabilities: np.ndarray
    class_id: np.ndarray
    energy: np.ndarray
    max_probability: np.ndarray
    unfamiliar: np.ndarray | None
    in_set: np.ndarray | None

    @property
    def class_name(self) -> list[str]:
        """N class names."""
        return [self.model.artefact.classes[i] for i in self.class_id]

    @functools.cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the predicted class, float32 [N]."""
        return np.asarray(self.probabilities.max(axis=1))


def _join(parts: list[tuple[Answers, slice]]) -> Answers:
    """Join the answers to one request from its batches."""
    arrays: dict[str, Any] = {}
    for field in dataclasses.fields(Answers)[1:]:
        values = [(getattr(answers, field.name), place) for answers, place in parts]
        pieces = [value[place] for value, place in values if value is not None]
        arrays[field.name] = np.concatenate(pieces) if len(pieces) == len(parts) else None
    return Answers(parts[-1][0].model, **arrays)


class Service:
    """The model, its queue, and its metrics.

    Args:
        holder: the model in service.
        settings: the options of `serve`.

    Attributes:
        is_stopping: whether the server is shutting down; the server sets it.
    """

    is_stopping: Callable[[], bool]

    def __init__(self, holder: ModelHolder, settings: Settings) -> None:
        self.holder = holder
        self.settings = settings
        self.metrics = Metrics()
        self._count_load()
        self.is_stopping = lambda: False
        self._running = False
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self._slow = ThreadPoolExecutor(2, "slow")
        self.batcher: Batcher[Answers] = Batcher(
            self._predict,
            max_batch_size=settings.max_batch_size,
            timeout=settings.batch_timeout_ms / 1000,
            max_enqueued_batches=settings.max_enqueued_batches,
        )
        self.metrics.queued.set_function(lambda: self.batcher.queued)
        self.metrics.ready.set_function(lambda: self.ready)
        self._keeping = threading.Lock()
        self._alarmed: ServedModel | None = None

    @property
    def model(self) -> ServedModel:
        """The model in service."""
        return self.holder.current

    @property
    def ready(self) -> bool:
        """Whether requests are accepted."""
        return self._running and not self.is_stopping()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests until the block ends."""
        loops = [self.batcher.run(), _repeat(_DRIFT_SECONDS, self._look_for_drift)]
        if self.settings.watch:
            loops.append(_repeat(self.settings.watch_seconds, self._look_for_model))
        tasks = [asyncio.create_task(loop) for loop in loops]
        self._running = True
        try:
            yield
        finally:
            self._running = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.batcher.close()
            self._decoders.shutdown()
            self._slow.shutdown()

    async def decode(self, content: bytes, what: str = "The image") -> DecodedImage:
        """Decode an image file.

        Raises:
            RequestError: 400, it is not an image or has too many pixels.
        """
        decode, most = self.model.artefact.preprocessing.decode, self.settings.limits.image_pixels
        try:
            return await self.in_decoder(decode, content, max_pixels=most)
        except ImageError as error:
            raise bad_request(f"{what} cannot be used: {error}") from error

    async def classify(self, images: np.ndarray) -> Answers:
        """Classify uint8 [N, H, W, C] of the model's shape, N at least 1.

        Raises:
            RequestError: the queue is full (503), or smaller than the request (413).
        """
        return _join(await self.batcher.submit(images))

    async def explain(self, image: np.ndarray, class_id: int) -> np.ndarray | None:
        """Grad-CAM of an image, uint8 [H, W, C]: float32 [H, W] from 0 to 1; None if not available."""
        explainer = self.model.explainer
        return None if explainer is None else await self.in_thread(explainer.explain, image, class_id)

    async def in_decoder(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a function in a thread for decoding."""
        call = functools.partial(function, *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, call)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a slow function in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, function, *arguments)

    async def drift_report(self) -> DriftReport:
        """Compare the newest images with the validation images."""
        report = await self.in_thread(self.model.monitor.report)
        self.metrics.show_drift(report)
        return report

    def _predict(self, images: np.ndarray) -> Answers:
        """Classify a batch, in the model's thread, and compute scores and metrics for all of it at once."""
        model = self.model
        started = time.perf_counter()
        predictions = model.artefact.predict(images)
        self.metrics.model_seconds.observe(time.perf_counter() - started)
        logits = predictions.logits
        answers = Answers(
            model,
            logits,
            predictions.probabilities,
            predictions.class_id,
            energy(logits),
            max_probability(logits),
            None if model.thresholds is None else model.thresholds.is_unfamiliar(logits),
            None if model.sets is None else model.sets.contain(logits),
        )
        self._record(images, answers)
        return answers

    def _record(self, images: np.ndarray, answers: Answers) -> None:
        self.metrics.batch_size.observe(len(images))
        for name, count in collections.Counter(answers.class_name).items():
            self.metrics.predictions.labels(name).inc(count)
        for value in answers.confidence.tolist():
            self.metrics.confidence.observe(value)
        answers.model.monitor.add(images, answers.class_id, answers.confidence)
        if answers.unfamiliar is not None and answers.unfamiliar.any():
            self.metrics.unfamiliar.inc(int(answers.unfamiliar.sum()))
            if self.settings.keep_unfamiliar is not None:
                self._slow.submit(self._keep, images[answers.unfamiliar], self.settings.keep_unfamiliar)

    def _keep(self, images: np.ndarray, folder: Path) -> None:
        """Store unfamiliar images as the network saw them, up to the limit."""
        try:
            # Otherwise two threads could both count before either writes.
            with self._keeping:
                folder.mkdir(parents=True, exist_ok=True)
                held = sum(1 for path in folder.iterdir() if path.suffix == ".png")
                for image in images[: max(0, self.settings.keep_limit - held)]:
                    png = encode_png(image)
                    files.write_bytes(folder / f"{files.sha256_bytes(png)[:16]}.png", png)
        except OSError as error:
            logger.warning("--keep-unfamiliar %s: %s", folder, error)

    def _count_load(self) -> None:
        self.metrics.loads.labels("loaded").inc()
        self.metrics.show_model(self.settings.name, self.model.version, self.model.source.weights_sha256)

    async def _look_for_model(self) -> None:
        if not await self.in_thread(self.holder.refresh):
            return
        failure = self.holder.failure
        if failure is not None:
            self.metrics.loads.labels("refused").inc()
            logger.warning("The new model was refused; the old one stays in service. %s", failure)
            return
        self._count_load()
        logger.warning("Version %d is in service: %s.", self.model.version, self.model.warm_up)

    async def _look_for_drift(self) -> None:
        model = self.model
        report = await self.drift_report()
        if report.drifted and self._alarmed is not model:
            changes = ", ".join(test.change for test in report.tests if test.drifted)
            logger.warning("Drift from the validation images: %s.", changes)
            if self.settings.alert_webhook is not None:
                await self.in_thread(self._alert, self.settings.alert_webhook, report)
        self._alarmed = model if report.drifted else None

    def _alert(self, address: str, report: DriftReport) -> None:
        body = json.dumps({"model": self.settings.name, "monitoring": report.to_json()}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
                pass
        except (OSError, ValueError) as error:
            self.metrics.webhook_failures.inc()
            # The rest of the URL may be a secret, as with Slack.
            host = urllib.parse.urlsplit(address).hostname
            logger.warning("--alert-webhook on %s cannot be reached: %s", host, error)


async def _repeat(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Run a step every few seconds until cancelled; exceptions are logged."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
        except Exception:
            logger.exception("A background task failed. It runs again in %g s.", seconds)
