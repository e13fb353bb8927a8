"""Dynamic batching: waiting requests share calls of the model."""

import asyncio
import collections
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

from cifar_trainer.serving.errors import RequestError

T = TypeVar("T")


@dataclasses.dataclass(eq=False)
class _Waiting(Generic[T]):
    """A request: its images, how many of them are in batches already, and the results so far."""

    images: np.ndarray
    answer: "asyncio.Future[list[tuple[T, slice]]]"
    taken: int = 0
    results: list[tuple[T, slice]] = dataclasses.field(default_factory=list)


class Batcher(Generic[T]):
    """Collects images into batches and answers one batch at a time.

    Images that arrive while the model is busy form the next batch, so batches grow with the load and a
    single request does not wait. Requests take turns: a large one leaves room for the others.

    Args:
        predict: takes uint8 [N, H, W, C], N at most `max_batch_size`; runs in its own thread.
        max_batch_size: the largest batch, in images.
        timeout: seconds that a batch waits for more images.
        max_enqueued_batches: batches that may wait. A large request counts as one batch.
    """

    def __init__(
        self,
        predict: Callable[[np.ndarray], T],
        *,
        max_batch_size: int,
        timeout: float,
        max_enqueued_batches: int,
    ) -> None:
        self._predict = predict
        self._max_batch_size = max_batch_size
        self._timeout = timeout
        self.capacity = max_batch_size * max_enqueued_batches
        self._waiting: collections.deque[_Waiting[T]] = collections.deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model")

    @property
    def queued(self) -> int:
        """Number of waiting images."""
        return sum(len(request.images) - request.taken for request in self._waiting)

    def check_size(self, count: int) -> None:
        """Raise RequestError (413) if a request has more images than the queue can hold."""
        if count > self.capacity:
            raise RequestError(
                413,
                "too_large",
                f"The request has {count:,} images; at most {self.capacity:,} fit into the queue. "
                "Send them in several requests.",
            )

    async def submit(self, images: np.ndarray) -> list[tuple[T, slice]]:
        """Classify uint8 [N, H, W, C]; return batch results in order, each with the slice of this request.

        If this is cancelled, the images leave the queue.

        Raises:
            RequestError: the queue is full (503), or smaller than the request (413).
        """
        self.check_size(len(images))
        # A large request counted in full would lock everybody else out.
        shares = sum(min(len(r.images) - r.taken, self._max_batch_size) for r in self._waiting)
        if shares + min(len(images), self._max_batch_size) > self.capacity:
            raise RequestError(503, "queue_full", f"{self.queued:,} images are waiting. Try again later.", 1)
        request: _Waiting[T] = _Waiting(images, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._arrived.set()
        try:
            return await request.answer
        finally:
            if request in self._waiting:
                self._waiting.remove(request)

    async def run(self) -> None:
        """Answer batches until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            await self._wait_for_more()
            batch = self._take()
            if not batch:
                continue
            pieces = [request.images[place] for request, place in batch]
            images = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            try:
                result = await loop.run_in_executor(self._thread, self._predict, images)
            except Exception as error:  # Whatever a runtime raises fails this batch, not the server.
                for request, _ in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
                continue
            start = 0
            for request, place in batch:
                stop = start + place.stop - place.start
                request.results.append((result, slice(start, stop)))
                start = stop
                if place.stop == len(request.images) and not request.answer.done():
                    request.answer.set_result(request.results)

    async def _wait_for_more(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout
        while self._timeout and self.queued < self._max_batch_size and (left := until - loop.time()) > 0:
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left)
            except TimeoutError:
                break

    def _take(self) -> list[tuple[_Waiting[T], slice]]:
        """Take the next batch: a slice of each waiting request, in turns of equal size."""
        batch = []
        room = self._max_batch_size
        turn = max(1, room // max(1, len(self._waiting)))
        while self._waiting and room:
            request = self._waiting.popleft()
            place = slice(request.taken, min(request.taken + min(turn, room), len(request.images)))
            batch.append((request, place))
            request.taken = place.stop
            room -= place.stop - place.start
            if request.taken < len(request.images):
                self._waiting.append(request)
        if self._waiting:
            self._arrived.set()
        else:
            self._arrived.clear()
        return batch

    def close(self) -> None:
        """Wait for the current batch, then end the thread."""
        self._thread.shutdown(wait=True)
