"""Requests that arrive together are one call of the model, and each gets its answer."""

import asyncio
import threading
import time

import numpy as np
import pytest

from mnist_tf.batching import Batcher, QueueFullError


class Model:
    """Answers with the first pixel of each image; remembers how it was asked."""

    def __init__(self, seconds_an_image=0.0):
        self.seconds_an_image = seconds_an_image
        self.sizes = []
        self.threads = []
        self.at_once = 0

    def __call__(self, images):
        self.at_once += 1
        assert self.at_once == 1, "asked twice at the same time"
        self.sizes.append(len(images))
        self.threads.append(threading.current_thread().name)
        time.sleep(self.seconds_an_image * len(images))
        self.at_once -= 1
        return images[:, 0, :1].astype(np.float32)


def pictures(*values):
    return np.array(values, np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)


def asked(batcher, *requests):
    """The answers to requests that arrive in one turn of the event loop."""

    async def ask():
        each = (batcher.ask(pictures(*values)) for values in requests)
        return await asyncio.gather(*each, return_exceptions=True)

    return asyncio.run(ask())


def values(answers):
    return [answer[:, 0].tolist() for answer in answers]


@pytest.fixture
def made():
    batchers = []

    def make(*args, **kwargs):
        batchers.append(Batcher(*args, **kwargs))
        return batchers[-1]

    yield make
    for batcher in batchers:
        batcher.close()


def test_requests_of_one_turn_are_one_call(made):
    model, seen = Model(), []
    batcher = made(model, watch=seen.append)
    asked(batcher, [0])  # tells how long an image takes
    assert values(asked(batcher, [1], [2, 3], [4])) == [[1], [2, 3], [4]]
    assert model.sizes == seen == [1, 4]


def test_what_is_quick_is_answered_without_another_thread(made):
    model = Model()
    batcher = made(model)
    asked(batcher, [1])
    asked(batcher, [2])
    assert model.threads == ["inference", threading.current_thread().name]


def test_the_loop_goes_on_while_the_model_takes_its_time(made):
    model = Model(seconds_an_image=0.2)
    batcher = made(model)
    turns = 0

    async def count():
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    async def ask():
        counting = asyncio.create_task(count())
        for value in (1, 2):
            await batcher.ask(pictures(value))
        counting.cancel()

    asyncio.run(ask())
    assert set(model.threads) == {"inference"}
    assert turns > 10


def test_a_batch_takes_no_more_once_it_is_full(made):
    model = Model(seconds_an_image=0.05)
    batcher = made(model, most_images=2)
    assert values(asked(batcher, *([value] for value in range(5)))) == [
        [value] for value in range(5)
    ]
    assert max(model.sizes) == 2 and sum(model.sizes) == 5


def test_quick_and_slow_never_ask_the_model_at_once(made):
    model = Model(seconds_an_image=1e-4)
    batcher = made(model)

    async def ask(count, turns):
        for turn in range(turns):
            given = [(turn + place) % 256 for place in range(count)]
            answer = await batcher.ask(pictures(*given))
            assert answer[:, 0].tolist() == given
            await asyncio.sleep(1e-3 * count)

    async def ask_all():
        await asyncio.gather(ask(1, 200), ask(2, 100), ask(100, 5))

    asyncio.run(ask_all())  # Model asserts it
    assert {"inference", threading.current_thread().name} == set(model.threads)


def test_as_many_wait_as_may(made):
    batcher = made(Model(), most_waiting=2)
    answers = asked(batcher, [1], [2], [3])
    assert values(answers[:2]) == [[1], [2]]
    assert isinstance(answers[2], QueueFullError)


def test_a_failure_reaches_each_who_asked_and_no_one_else(made):
    def model(images):
        if images.max() > 1:
            raise ValueError("broken")
        return images[:, 0, :1]

    batcher = made(model)
    assert [str(error) for error in asked(batcher, [1], [2])] == ["broken"] * 2
    assert values(asked(batcher, [1])) == [[1]]


def test_who_gave_up_is_not_computed_for(made):
    model = Model(seconds_an_image=0.1)
    batcher = made(model)

    async def ask():
        first = asyncio.create_task(batcher.ask(pictures(1)))
        await asyncio.sleep(0.05)
        given_up = asyncio.create_task(batcher.ask(pictures(2)))
        last = asyncio.create_task(batcher.ask(pictures(3)))
        await asyncio.sleep(0)
        given_up.cancel()
        return await asyncio.gather(first, last)

    assert values(asyncio.run(ask())) == [[1], [3]]
    assert sum(model.sizes) == 2
