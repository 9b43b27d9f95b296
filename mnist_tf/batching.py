"""Requests that arrive at the same time -> one call of the model.

The event loop hands images over and goes on; one thread takes whatever has gathered
meanwhile, asks the model once, and hands the answers back. Nobody waits for company: a
request alone is a batch of its own.
"""

import asyncio
import dataclasses
import queue
import threading
from collections.abc import Callable

import numpy as np

Probabilities = Callable[[np.ndarray], np.ndarray]


class QueueFullError(Exception):
    """As many requests wait as may."""


@dataclasses.dataclass(eq=False)
class _Job:
    images: np.ndarray
    answer: asyncio.Future


class Batcher:
    """A bounded queue before one thread that asks the model.

    Args:
      probabilities: maps uint8 [n, H, W] to float32 [n, C]. Assign another to
        `self.probabilities` to have the next batch answered by that.
      most_images: a batch takes no further request once it has as many images.
      most_waiting: requests that may wait.
      watch: called with the images of each batch, in the thread.
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
        # None ends the thread.
        self._waiting: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="inference")
        self._thread.start()

    def __len__(self) -> int:
        """Requests that wait."""
        return self._waiting.qsize()

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """The probabilities [n, C] of uint8 images [n, H, W].

        Raises:
          QueueFullError: as many requests wait as may.
        """
        if len(self) >= self.most_waiting:
            raise QueueFullError
        job = _Job(images, asyncio.get_running_loop().create_future())
        self._waiting.put(job)
        return await job.answer

    def close(self) -> None:
        """Answers what waits and ends the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while jobs := self._gather():
            self._answer(jobs)

    def _gather(self) -> list[_Job]:
        """Waits for a request; returns it and those behind it, or none at the end."""
        jobs: list[_Job] = []
        count = 0
        while not jobs or (count < self.most_images and len(self)):
            job = self._waiting.get()
            if job is None:
                self._waiting.put(None)  # for the next time
                break
            # Whoever asked may have given up.
            if not job.answer.cancelled():
                jobs.append(job)
                count += len(job.images)
        return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        found: np.ndarray | Exception
        try:
            images = [job.images for job in jobs]
            found = self.probabilities(
                images[0] if len(images) == 1 else np.concatenate(images)
            )
            self.watch(len(found))
        except Exception as error:  # noqa: BLE001 (each asker gets it)
            found = error
        loop = jobs[0].answer.get_loop()
        loop.call_soon_threadsafe(_deliver, jobs, found)


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
