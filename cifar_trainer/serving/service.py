"""What all protocols ask: images in, answers out."""

import asyncio
import collections
import contextlib
import dataclasses
import json
import logging
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cifar_trainer import files
from cifar_trainer.images import DecodedImage, ImageError, encode_png, is_small_png
from cifar_trainer.metrics import energy, max_probability
from cifar_trainer.serving.batching import Batcher
from cifar_trainer.serving.drift import DriftMonitor, DriftReport
from cifar_trainer.serving.model import Explainer, ModelHolder, ServedModel
from cifar_trainer.serving.problems import bad_request
from cifar_trainer.serving.settings import Settings
from cifar_trainer.serving.telemetry import Telemetry

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Images decoded side by side. Each may take some 500 MB: 64 million pixels and a copy.
_DECODERS = 2
_DRIFT_SECONDS = 15.0
_WEBHOOK_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What the model says about N images.

    Attributes:
        model: that has answered.
        logits, probabilities: float32 [N, classes]; the probabilities are calibrated where a
            temperature was fitted.
        class_id: int64 [N].
        energy, max_probability: the scores of familiarity, float64 [N]; `metrics.Thresholds`.
        unfamiliar: bool [N]; None where no thresholds were fitted.
    """

    model: ServedModel
    logits: np.ndarray
    probabilities: np.ndarray
    class_id: np.ndarray
    energy: np.ndarray
    max_probability: np.ndarray
    unfamiliar: np.ndarray | None

    @property
    def class_name(self) -> list[str]:
        """The names of the classes, N of them."""
        return [self.model.artefact.classes[i] for i in self.class_id]

    @property
    def confidence(self) -> np.ndarray:
        """The probability of the class that was given, float32 [N]."""
        largest: np.ndarray = self.probabilities.max(axis=1)
        return largest

    def part(self, place: slice) -> "Answers":
        """The answers about some of the images."""
        return Answers(
            self.model,
            self.logits[place],
            self.probabilities[place],
            self.class_id[place],
            self.energy[place],
            self.max_probability[place],
            None if self.unfamiliar is None else self.unfamiliar[place],
        )


def _join(parts: list[Answers]) -> Answers:
    """The answers to one request that went into several batches. A version tells of the first."""
    unfamiliar = [part.unfamiliar for part in parts if part.unfamiliar is not None]
    return Answers(
        parts[0].model,
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.probabilities for part in parts]),
        np.concatenate([part.class_id for part in parts]),
        np.concatenate([part.energy for part in parts]),
        np.concatenate([part.max_probability for part in parts]),
        np.concatenate(unfamiliar) if len(unfamiliar) == len(parts) else None,
    )


class Service:
    """The model, its queue, and what is counted.

    Args:
        holder: the model in service.
        settings: the options of `serve`.
        on_load: called when a model was loaded beside the requests.
    """

    def __init__(
        self, holder: ModelHolder, settings: Settings, on_load: Callable[[], None] = lambda: None
    ) -> None:
        self.holder = holder
        self.settings = settings
        self._on_load = on_load
        self.telemetry = Telemetry()
        self.telemetry.version.set(holder.current.version)
        self.telemetry.loads.labels("loaded").inc()
        self.drift = DriftMonitor()
        self.ready = False
        run = holder.current.source.run
        self.explainer = None if run is None else Explainer(run, on_load)
        self._decoders = ThreadPoolExecutor(_DECODERS, "decode")
        self._slow = ThreadPoolExecutor(2, "slow")
        self._batcher: Batcher[Answers] = Batcher(
            self._predict,
            max_batch_size=settings.max_batch_size,
            timeout=settings.batch_timeout_ms / 1000,
            max_enqueued_batches=settings.max_enqueued_batches,
            on_batch=self.telemetry.batch_size.observe,
        )
        self.telemetry.queued.set_function(lambda: self._batcher.queued)
        self._keeping = threading.Lock()

    @property
    def model(self) -> ServedModel:
        """The model that answers now."""
        return self.holder.current

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests until the block ends."""
        tasks = [asyncio.create_task(self._batcher.run()), asyncio.create_task(self._watch_drift())]
        if self.settings.watch:
            tasks.append(asyncio.create_task(self._watch_model()))
        self.ready = True
        self.telemetry.ready.set(1)
        try:
            yield
        finally:
            self.ready = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._batcher.close()
            self._decoders.shutdown()
            self._slow.shutdown()

    async def decode(self, content: bytes) -> DecodedImage:
        """Decode an image file.

        Raises:
            RequestError: 400, it is none, or too large.
        """
        loop = asyncio.get_running_loop()
        decode = self.model.artefact.preprocessing.decode
        try:
            if is_small_png(content):
                # Another thread would cost more than decoding it.
                return decode(content)
            return await loop.run_in_executor(self._decoders, decode, content)
        except ImageError as error:
            raise bad_request(f"The image cannot be used: {error}") from error

    async def classify(self, images: np.ndarray) -> Answers:
        """Classify uint8 [N, H, W, C] of the model's shape, N at least 1.

        Raises:
            RequestError: the queue is full, or cannot hold so many.
        """
        parts = [batch.part(place) for batch, place in await self._batcher.submit(images)]
        return parts[0] if len(parts) == 1 else _join(parts)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what takes long beside the requests."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, function, *arguments)

    async def drift_report(self) -> DriftReport:
        """Compare the newest images with the validation images."""
        model = self.model
        report = await self.in_thread(self.drift.report, model.baseline, model.artefact.classes)
        self.telemetry.show_drift(report)
        return report

    def _predict(self, images: np.ndarray) -> Answers:
        model = self.holder.current
        started = time.perf_counter()
        predictions = model.artefact.predict(images)
        self.telemetry.model_seconds.observe(time.perf_counter() - started)
        # Once a batch and in its thread: for single images it would cost more than the model.
        answers = Answers(
            model=model,
            logits=predictions.logits,
            probabilities=predictions.probabilities,
            class_id=predictions.class_id,
            energy=energy(predictions.logits),
            max_probability=max_probability(predictions.logits),
            unfamiliar=None
            if model.thresholds is None
            else model.thresholds.is_unfamiliar(predictions.logits),
        )
        self._take_note(images, answers)
        return answers

    def _take_note(self, images: np.ndarray, answers: Answers) -> None:
        confidence = answers.confidence
        for name, count in collections.Counter(answers.class_name).items():
            self.telemetry.predictions.labels(name).inc(count)
        for value in confidence.tolist():
            self.telemetry.confidence.observe(value)
        self.drift.add(images, answers.class_id, confidence)
        if answers.unfamiliar is not None and answers.unfamiliar.any():
            self.telemetry.unfamiliar.inc(int(answers.unfamiliar.sum()))
            if self.settings.keep_unfamiliar is not None:
                self._slow.submit(self._keep, images[answers.unfamiliar], self.settings.keep_unfamiliar)

    def _keep(self, images: np.ndarray, folder: Path) -> None:
        """Store what the network saw of unfamiliar images, up to the limit."""
        try:
            # One at a time, or two would count before either has written.
            with self._keeping:
                folder.mkdir(parents=True, exist_ok=True)
                held = sum(1 for path in folder.iterdir() if path.suffix == ".png")
                for image in images[: max(0, self.settings.keep_limit - held)]:
                    png = encode_png(image)
                    files.write_bytes(folder / f"{files.sha256_bytes(png)[:16]}.png", png)
        except OSError as error:
            logger.warning("--keep-unfamiliar %s: %s", folder, error)

    async def _watch_model(self) -> None:
        while True:
            await asyncio.sleep(self.settings.watch_seconds)
            if not await self.in_thread(self.holder.refresh):
                continue
            failure = self.holder.failure
            self.telemetry.loads.labels("loaded" if failure is None else "refused").inc()
            if failure is not None:
                logger.warning("The new model was not taken up, the old one goes on. %s", failure)
                continue
            await self.in_thread(self._on_load)
            self.drift.clear()
            self.telemetry.version.set(self.model.version)
            logger.warning("Version %d is in service: %s.", self.model.version, self.model.warm_up)

    async def _watch_drift(self) -> None:
        drifted = False
        while True:
            await asyncio.sleep(_DRIFT_SECONDS)
            report = await self.drift_report()
            if report.drifted and not drifted:
                names = ", ".join(test.measure for test in report.tests if test.drifted)
                logger.warning("Drift: %s differ from the validation images'.", names)
                if self.settings.alert_webhook is not None:
                    await self.in_thread(self._alert, self.settings.alert_webhook, report)
            drifted = report.drifted

    def _alert(self, address: str, report: DriftReport) -> None:
        body = json.dumps({"model": self.settings.name, "monitoring": report.to_json()}).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=_WEBHOOK_SECONDS):
                pass
        except (OSError, ValueError) as error:
            self.telemetry.webhook_failures.inc()
            logger.warning("--alert-webhook %s cannot be reached: %s", address, error)
