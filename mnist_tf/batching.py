"""Requests that arrive at the same time -> one call of the model.

What arrives in one turn of the event loop is one batch. Nobody waits for company: a
request alone is a batch of its own. A batch that takes less time than handing it to
another thread and back is answered at once; for any other the loop goes on, and one
thread takes whatever has gathered meanwhile and asks the model once.
"""

import asyncio
import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable

import numpy as np

_AT_ONCE_SECONDS = 5e-3  # the event loop may stand still as long

Probabilities = Callable[[np.ndarray], np.ndarray]


class QueueFullError(Exception):
    """As many requests wait as may."""


@dataclasses.dataclass(eq=False)
class _Job:
    images: np.ndarray
    answer: asyncio.Future


class Batcher:
    """A bounded queue before the model, which answers one call at a time.

    Args:
      probabilities: maps uint8 [n, H, W] to float32 [n, C]. Assign another to
        `self.probabilities` to have the next batch answered by that.
      most_images: a batch takes no further request once it has as many images.
      most_waiting: requests that may wait.
      watch: called with the number of images of each batch.
    """

    def __init__(
        self,
        probabilities: Probabilities,
        most_images: int = 256,
        most_waiting: int = 1024,
        watch: Callable[[int], None] = lambda images: None,
    ) -> None:
        self.probabilities = probabilities
        self.most_images = most_images
        self.most_waiting = most_waiting
        self.watch = watch
        self._gathered: list[_Job] = []  # in this turn of the event loop
        self._model = threading.Lock()  # is asked one call at a time
        self._seconds_an_image = math.inf  # as last measured
        # None ends the thread.
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference")
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._gathered) + self._waiting.qsize()

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """The probabilities [n, C] of uint8 images [n, H, W].

        Raises:
          QueueFullError: as many requests wait as may.
        """
        if len(self) >= self.most_waiting:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        job = _Job(images, loop.create_future())
        if not self._gathered:
            loop.call_soon(self._pass_on)
        self._gathered.append(job)
        return await job.answer

    def close(self) -> None:
        """Answers what waits and ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _pass_on(self) -> None:
        """Answers what this turn of the event loop has gathered, or has it answered."""
        jobs, self._gathered = self._gathered, []
        seconds = self._seconds_an_image * sum(len(job.images) for job in jobs)
        if seconds <= _AT_ONCE_SECONDS and self._model.acquire(blocking=False):
            try:
                found = self._found(jobs)
            finally:
                self._model.release()
            _deliver(jobs, found)
        else:
            for job in jobs:
                self._waiting.put(job)

    def _work(self) -> None:
        while jobs := self._gather():
            with self._model:
                found = self._found(jobs)
            loop = jobs[0].answer.get_loop()
            loop.call_soon_threadsafe(_deliver, jobs, found)

    def _gather(self) -> list[_Job]:
        """Waits for a request; returns it and those behind it, or none at the end."""
        jobs: list[_Job] = []
        count = 0
        while not jobs or (count < self.most_images and self._waiting.qsize()):
            job = self._waiting.get()
            if job is None:
                self._waiting.put(None)  # for the next time
                break
            # Whoever asked may have given up.
            if not job.answer.cancelled():
                jobs.append(job)
                count += len(job.images)
        return jobs

    def _found(self, jobs: list[_Job]) -> np.ndarray | Exception:
        images = [job.images for job in jobs]
        clock = time.perf_counter()
        try:
            found = self.probabilities(
                images[0] if len(images) == 1 else np.concatenate(images)
            )
            self.watch(len(found))
        except Exception as error:  # noqa: BLE001 (each asker gets it)
            return error
        self._seconds_an_image = (time.perf_counter() - clock) / len(found)
        return found


def _deliver(jobs: list[_Job], found: np.ndarray | Exception) -> None:
    start = 0
    for job in jobs:
        end = start + len(job.images)
        if not job.answer.done():
            if isinstance(found, Exception):
                job.answer.set_exception(found)
            else:
                job.answer.set_result(found[start:end])
        start = end
