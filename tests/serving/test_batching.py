"""Requests that wait share batches, and take turns."""

import asyncio
import concurrent.futures
from collections.abc import Iterator

import numpy as np
import pytest
from serving_server import images_of, running, until, web

from cifar_trainer.serving.batching import Batcher
from cifar_trainer.serving.errors import RequestError

PREDICT = "/v1/models/colours:predict"


class Held:
    """A batcher whose model adds up each image, and the batches that it was given."""

    def __init__(self, max_batch_size: int, max_enqueued_batches: int, timeout: float = 0) -> None:
        self.batches: list[list[int]] = []
        self.batcher: Batcher[np.ndarray] = Batcher(
            self._predict,
            max_batch_size=max_batch_size,
            timeout=timeout,
            max_enqueued_batches=max_enqueued_batches,
        )

    def _predict(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images.ravel().tolist())
        return images.ravel() * 10

    async def ask(self, *values: int) -> list[int]:
        """The answers for images of one pixel."""
        images = np.array(values, np.int64).reshape(-1, 1, 1, 1)
        return [int(v) for result, place in await self.batcher.submit(images) for v in result[place]]

    async def answer(self, *questions: "asyncio.Task[list[int]]") -> list[list[int]]:
        """Let questions wait, then start the model; their answers."""
        await asyncio.sleep(0)
        runner = asyncio.create_task(self.batcher.run())
        try:
            return list(await asyncio.gather(*questions))
        finally:
            runner.cancel()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held(max_batch_size=4, max_enqueued_batches=3)
    yield made
    made.batcher.close()


def test_a_large_request_leaves_room_for_the_others_in_each_batch(held: Held) -> None:
    async def run() -> list[list[int]]:
        large = asyncio.create_task(held.ask(*range(12)))
        small = [asyncio.create_task(held.ask(100 + i)) for i in range(3)]
        return await held.answer(large, *small)

    assert asyncio.run(run()) == [[10 * i for i in range(12)], [1000], [1010], [1020]]
    assert {100, 101, 102} <= set(held.batches[0])
    assert max(map(len, held.batches)) <= 4


def test_a_large_request_does_not_fill_the_queue(held: Held) -> None:
    async def run() -> list[list[int]]:
        tasks = [asyncio.create_task(held.ask(*range(12)))]
        tasks += [asyncio.create_task(held.ask(i)) for i in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="Try again later"):
            await held.ask(9)
        return await held.answer(*tasks)

    assert asyncio.run(run())[1:] == [[10 * i] for i in range(8)]


def test_a_request_that_is_given_up_leaves_the_queue(held: Held) -> None:
    async def run() -> None:
        first, second = asyncio.create_task(held.ask(1)), asyncio.create_task(held.ask(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        assert held.batcher.queued == 1
        await held.answer(second)

    asyncio.run(run())
    assert held.batches == [[2]]


def test_requests_that_wait_make_one_batch_and_beyond_the_queue_are_503(png: bytes) -> None:
    with running(max_batch_size=2, max_enqueued_batches=2) as server:
        server.model.hold.clear()
        with concurrent.futures.ThreadPoolExecutor() as threads:
            ask = lambda: web.post(f"{server.url}/predict", content=png, timeout=20)  # noqa: E731
            answers = [threads.submit(ask)]
            assert server.model.working.wait(10)
            answers += [threads.submit(ask) for _ in range(4)]
            assert until(lambda: server.counted("queued_images") == 4)
            refused = ask()
            server.model.hold.set()
            assert {each.result().status_code for each in answers} == {200}
        assert server.model.sizes == [1, 2, 2]
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"


def test_a_large_request_is_split_into_batches() -> None:
    with running(max_batch_size=2) as server:
        images = images_of(5)
        answer = web.post(server.url + PREDICT, json={"instances": images.tolist()})
        ids = [row["class_id"] for row in answer.json()["predictions"]]
        assert server.model.sizes == [2, 2, 1]
    assert ids == images.mean(axis=(1, 2)).argmax(axis=1).tolist()


@pytest.mark.parametrize(("timeout", "later", "batches"), [(60, [2, 3], [[1, 2, 3]]), (1e-9, [], [[1]])])
def test_a_batch_waits_for_more_until_it_is_full_or_the_time_is_over(
    timeout: float, later: list[int], batches: list[list[int]]
) -> None:
    held = Held(max_batch_size=3, max_enqueued_batches=1, timeout=timeout)

    async def run() -> None:
        runner = asyncio.create_task(held.batcher.run())
        asking = [asyncio.create_task(held.ask(1))]
        for _ in range(3):  # The runner meets the first request, and waits.
            await asyncio.sleep(0)
        asking += [asyncio.create_task(held.ask(value)) for value in later]
        await asyncio.wait_for(asyncio.gather(*asking), 50)
        runner.cancel()

    asyncio.run(run())
    held.batcher.close()
    assert held.batches == batches
