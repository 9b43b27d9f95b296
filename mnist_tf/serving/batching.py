"""Batches concurrent requests for a model into one call.

Requests that arrive in the same turn of the event loop form a batch; none waits for
others to arrive. A batch that takes less time than handing it to another thread and
back runs in the event loop. Any other goes to the inference thread, which takes all
requests that have queued up and calls the model once.
"""

import asyncio
import dataclasses
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable

import numpy as np

from mnist_tf.predictor import Outputs

_MAX_BLOCKING_SECONDS = 5e-3  # a batch may block the event loop for this long

Model = Callable[[np.ndarray], Outputs]


class QueueFullError(Exception):
    """The queue has `max_queue_size` requests."""


@dataclasses.dataclass(eq=False)
class _Job:
    images: np.ndarray
    future: asyncio.Future
    model: Model


_Result = tuple[list[_Job], Outputs | Exception]


class Batcher:
    """A bounded queue in front of models that are called by one thread at a time.

    Args:
      max_batch_size: a batch with this many images takes no further request.
      max_queue_size: the most requests that may wait.
      on_batch: called with the number of images of each batch.
    """

    def __init__(
        self,
        max_batch_size: int = 256,
        max_queue_size: int = 1024,
        on_batch: Callable[[int], None] = lambda images: None,
    ) -> None:
        self.max_batch_size = max_batch_size
        self.max_queue_size = max_queue_size
        self.on_batch = on_batch
        self._arrived: list[_Job] = []  # in this turn of the event loop
        self._lock = threading.Lock()  # held while the model runs
        self._seconds_per_image = math.inf  # as last measured
        # None stops the thread.
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # A daemon, so that a second signal ends the process without `close`.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """The number of requests that wait."""
        return len(self._arrived) + self._queue.qsize()

    async def predict(self, images: np.ndarray, model: Model) -> Outputs:
        """Returns the outputs of a model for images, uint8 [n, H, W(, 3)].

        Raises:
          QueueFullError: the queue is full.
        """
        if len(self) >= self.max_queue_size:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        job = _Job(images, loop.create_future(), model)
        if not self._arrived:
            loop.call_soon(self._dispatch)
        self._arrived.append(job)
        return await job.future

    def close(self) -> None:
        """Finishes all queued requests and stops the thread."""
        self._queue.put(None)
        self._thread.join()

    def _dispatch(self) -> None:
        """Runs the requests of this turn of the event loop at once, or queues them."""
        jobs, self._arrived = self._arrived, []
        seconds = self._seconds_per_image * sum(len(job.images) for job in jobs)
        if seconds <= _MAX_BLOCKING_SECONDS and self._lock.acquire(blocking=False):
            try:
                results = self._call_each(jobs)
            finally:
                self._lock.release()
            _resolve(results)
        else:
            for job in jobs:
                self._queue.put(job)

    def _run(self) -> None:
        while jobs := self._next_batch():
            with self._lock:
                results = self._call_each(jobs)
            loop = jobs[0].future.get_loop()
            loop.call_soon_threadsafe(_resolve, results)

    def _next_batch(self) -> list[_Job]:
        """Waits for a request and takes those behind it; none once closed."""
        jobs: list[_Job] = []
        size = 0
        while not jobs or (size < self.max_batch_size and self._queue.qsize()):
            job = self._queue.get()
            if job is None:
                self._queue.put(None)  # for the next call
                break
            # A client may have disconnected or timed out.
            if not job.future.cancelled():
                jobs.append(job)
                size += len(job.images)
        return jobs

    def _call_each(self, jobs: list[_Job]) -> list[_Result]:
        """Calls each model that neighbours among the jobs ask for, once for all."""
        results = []
        for model, group in itertools.groupby(jobs, lambda job: job.model):
            same = list(group)
            results.append((same, self._call(model, same)))
        return results

    def _call(self, model: Model, jobs: list[_Job]) -> Outputs | Exception:
        parts = [job.images for job in jobs]
        start = time.perf_counter()
        try:
            result = model(parts[0] if len(parts) == 1 else np.concatenate(parts))
            self.on_batch(len(result))
        except Exception as error:  # noqa: BLE001 (every request of the batch gets it)
            return error
        self._seconds_per_image = (time.perf_counter() - start) / len(result)
        return result


def _resolve(results: list[_Result]) -> None:
    for jobs, result in results:
        start = 0
        for job in jobs:
            end = start + len(job.images)
            if not job.future.done():
                if isinstance(result, Exception):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result[start:end])
            start = end
