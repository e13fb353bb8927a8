"""Dynamic batching: requests that wait at the same time are answered by one call of the model."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from cifar_trainer.serving.problems import RequestError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class _Part(Generic[T]):
    """Images of one request, at most a batch, and their answer: the batch's result and their place in it."""

    images: np.ndarray
    answer: "asyncio.Future[tuple[T, slice]]"


class Batcher(Generic[T]):
    """Collects images into batches, one batch at a time.

    While the model works on a batch, what arrives waits and makes the next one; so batches
    grow with the load and a single request waits for nobody. `timeout` adds a wait for more.

    Args:
        predict: called in a thread of its own with uint8 [N, H, W, C], N at most `max_batch_size`.
        max_batch_size: images in a batch.
        timeout: seconds that a batch waits for more images, from when the first is taken.
        max_enqueued_batches: times `max_batch_size`: the images that may wait.
        on_batch: called with the size of each batch.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], T],
        *,
        max_batch_size: int,
        timeout: float,
        max_enqueued_batches: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._timeout = timeout
        self.capacity = max_batch_size * max_enqueued_batches
        self._on_batch = on_batch
        self._waiting: collections.deque[_Part[T]] = collections.deque()
        self.queued = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    async def submit(self, images: np.ndarray) -> list[tuple[T, slice]]:
        """Answer images, uint8 [N, H, W, C]: the results of the batches that they went into, in order.

        Cancelling this takes the images out of the queue.

        Raises:
            RequestError: the queue is full (503), or could never hold so many images (413).
        """
        if len(images) > self.capacity:
            raise RequestError(
                413,
                "too_large",
                f"The request has {len(images):,} images; at most {self.capacity:,} fit into the queue. "
                "Send them in several requests.",
            )
        if self.queued + len(images) > self.capacity:
            raise RequestError(
                503, "queue_full", f"{self.queued:,} images are waiting already. Try again later.", 1
            )
        loop = asyncio.get_running_loop()
        size = self._max_batch_size
        parts: list[_Part[T]] = [
            _Part(images[i : i + size], loop.create_future()) for i in range(0, len(images), size)
        ]
        self._waiting.extend(parts)
        self.queued += len(images)
        self._arrived.set()
        try:
            if len(parts) == 1:
                return [await parts[0].answer]
            return list(await asyncio.gather(*(part.answer for part in parts)))
        finally:
            for part in parts:
                # One that has an answer waits no more.
                if part.answer.cancel() or part.answer.cancelled():
                    self._remove(part)

    def _remove(self, part: _Part[T]) -> None:
        """Take out of the queue what nobody waits for, where it is still there."""
        if part in self._waiting:
            self._waiting.remove(part)
            self.queued -= len(part.images)

    async def run(self) -> None:
        """Answer batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await self._wait_for_more()
            parts = self._take()
            if not parts:
                continue
            images = parts[0].images if len(parts) == 1 else np.concatenate([part.images for part in parts])
            self._on_batch(len(images))
            try:
                result = await loop.run_in_executor(self._thread, self._predict, images)
            except Exception as error:  # Whatever a runtime raises is the answer to this batch, not the end.
                for part in parts:
                    if not part.answer.done():
                        part.answer.set_exception(error)
                continue
            start = 0
            for part in parts:
                place = slice(start, start + len(part.images))
                start = place.stop
                if not part.answer.done():
                    part.answer.set_result((result, place))

    async def _wait_for_more(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        while self._timeout and self.queued < self._max_batch_size and (left := until - loop.time()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break

    def _take(self) -> list[_Part[T]]:
        parts: list[_Part[T]] = []
        size = 0
        while self._waiting and size + len(self._waiting[0].images) <= self._max_batch_size:
            part = self._waiting.popleft()
            size += len(part.images)
            parts.append(part)
        self.queued -= size
        if self._waiting:
            self._arrived.set()
        else:
            self._arrived.clear()
        return parts

    def close(self) -> None:
        """End the thread, after the batch that it works on."""
        self._thread.shutdown(wait=True)
