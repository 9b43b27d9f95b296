"""Concurrent requests share a call of the model, and each gets its own result."""

import asyncio
import threading
import time

import numpy as np
import pytest

from mnist_tf.serving.batching import Batcher, QueueFullError


class Model:
    """Returns the first pixel of each image, and records its calls."""

    def __init__(self, seconds_per_image=0.0):
        self.seconds_per_image = seconds_per_image
        self.sizes = []
        self.threads = []
        self.running = 0

    def __call__(self, images):
        self.running += 1
        assert self.running == 1, "called twice at the same time"
        self.sizes.append(len(images))
        self.threads.append(threading.current_thread().name)
        time.sleep(self.seconds_per_image * len(images))
        self.running -= 1
        return images[:, 0, :1].astype(np.float32)


def images(*values):
    return np.array(values, np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)


def predict_all(batcher, model, *requests):
    """The results of requests that arrive in the same turn of the event loop."""

    async def gather():
        results = (batcher.predict(images(*values), model) for values in requests)
        return await asyncio.gather(*results, return_exceptions=True)

    return asyncio.run(gather())


def values(results):
    return [result[:, 0].tolist() for result in results]


@pytest.fixture
def make():
    batchers = []

    def build(*args, **kwargs):
        batchers.append(Batcher(*args, **kwargs))
        return batchers[-1]

    yield build
    for batcher in batchers:
        batcher.close()


def test_requests_of_the_same_turn_are_one_call(make):
    model, sizes = Model(), []
    batcher = make(on_batch=sizes.append)
    predict_all(batcher, model, [0])  # measures the time per image
    assert values(predict_all(batcher, model, [1], [2, 3], [4])) == [[1], [2, 3], [4]]
    assert model.sizes == sizes == [1, 4]


def test_each_request_gets_the_answer_of_its_model(make):
    one, other = Model(), Model()
    batcher = make()

    async def gather():
        asked = [(images(1), one), (images(2), one), (images(3), other)]
        return await asyncio.gather(*(batcher.predict(*each) for each in asked))

    predict_all(batcher, one, [0])  # measures the time per image
    assert values(asyncio.run(gather())) == [[1], [2], [3]]
    assert (one.sizes, other.sizes) == ([1, 2], [1])


def test_a_fast_model_runs_in_the_event_loop(make):
    model = Model()
    batcher = make()
    predict_all(batcher, model, [1])
    predict_all(batcher, model, [2])
    assert model.threads == ["inference", threading.current_thread().name]


def test_a_slow_model_does_not_block_the_event_loop(make):
    model = Model(seconds_per_image=0.2)
    batcher = make()
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async def predict():
        counting = asyncio.create_task(count())
        for value in (1, 2):
            await batcher.predict(images(value), model)
        counting.cancel()

    asyncio.run(predict())
    assert set(model.threads) == {"inference"}
    assert turns > 10


def test_many_images_for_a_fast_model_do_not_block_the_event_loop(make):
    model = Model(seconds_per_image=1e-3)
    batcher = make()
    predict_all(batcher, model, [1])  # measures the time per image
    predict_all(batcher, model, range(50))
    assert model.threads == ["inference", "inference"]


def test_a_full_batch_takes_no_further_request(make):
    model = Model(seconds_per_image=0.05)
    batcher = make(max_batch_size=2)
    assert values(predict_all(batcher, model, *([value] for value in range(5)))) == [
        [value] for value in range(5)
    ]
    assert max(model.sizes) == 2 and sum(model.sizes) == 5


def test_both_threads_never_call_the_model_at_once(make):
    model = Model(seconds_per_image=1e-4)
    batcher = make()

    async def predict(count, turns):
        for turn in range(turns):
            sent = [(turn + index) % 256 for index in range(count)]
            result = await batcher.predict(images(*sent), model)
            assert result[:, 0].tolist() == sent
            await asyncio.sleep(1e-3 * count)

    async def gather():
        await asyncio.gather(predict(1, 200), predict(2, 100), predict(100, 5))

    asyncio.run(gather())  # Model asserts it
    assert {"inference", threading.current_thread().name} == set(model.threads)


def test_a_full_queue_rejects_requests(make):
    batcher = make(max_queue_size=2)
    results = predict_all(batcher, Model(), [1], [2], [3])
    assert values(results[:2]) == [[1], [2]]
    assert isinstance(results[2], QueueFullError)


def test_an_error_reaches_every_request_of_its_batch_and_no_other(make):
    def model(images):
        if images.max() > 1:
            raise ValueError("broken")
        return images[:, 0, :1]

    batcher = make()
    assert [str(error) for error in predict_all(batcher, model, [1], [2])] == [
        "broken"
    ] * 2
    assert values(predict_all(batcher, model, [1])) == [[1]]


def test_cancelled_requests_are_skipped(make):
    model = Model(seconds_per_image=0.1)
    batcher = make()

    async def predict():
        first = asyncio.create_task(batcher.predict(images(1), model))
        await asyncio.sleep(0.05)
        cancelled = asyncio.create_task(batcher.predict(images(2), model))
        last = asyncio.create_task(batcher.predict(images(3), model))
        await asyncio.sleep(0)
        cancelled.cancel()
        return await asyncio.gather(first, last)

    assert values(asyncio.run(predict())) == [[1], [3]]
    assert sum(model.sizes) == 2
