"""Trains a run to its end, with callbacks, checkpoints, signals and rollbacks."""

import copy
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mnist_tf.config import as_steps
from mnist_tf.errors import Interrupted, say, warn
from mnist_tf.run import (
    callbacks,
    checkpoints,
    distribution,
    fine_tuning,
    hardware,
    manifest,
    profiling,
    tensorboard,
)
from mnist_tf.run.parts import Parts
from mnist_tf.run.signals import GracefulStop
from mnist_tf.stats.mistakes import Mistakes
from mnist_tf.trainer import Callback, NotFiniteError, Trainer

_MAX_ROLLBACKS = 3  # what these do not cure is not the learning rate
_ROLLBACK_FACTOR = 0.5  # of the learning rate


def train(
    parts: Parts,
    manager: checkpoints.CheckpointManager,
    log_dir: Path,
    extra_callbacks: Sequence[Callback],
) -> tuple[Trainer, dict[str, Any]]:
    """Trains to the end; returns the trainer and the content of config.json."""
    config, images = parts.config, parts.dataset.train_images
    init_from = None
    # For a rollback to a step before the first checkpoint.
    rolls_back = config.on_nonfinite == "rollback"
    stateful: list[Any] = [
        each for each in extra_callbacks if rolls_back and hasattr(each, "state")
    ]
    fresh = copy.deepcopy([each.state() for each in stateful])
    while True:
        rate = config.learning_rate * _ROLLBACK_FACTOR**manager.rollbacks
        trainer = parts.build_trainer(rate)
        if manager.latest:
            init_from = manager.latest[1]["description"]["init_from"]
        elif config.init_from:
            init_from = fine_tuning.initialize(
                trainer.model, parts.dataset.labels, config.init_from
            )
            fine_tuning.warn_if_seen(config.init_from, config, parts.dataset)
        started_from = (init_from or {}).get("weights_sha256") or ""
        distribution.check_state(parts.workers, init_from=started_from)
        own_batch = config.batch_size // parts.workers.count
        hardware.check_room(trainer, images, own_batch, manager.folder)
        description = manifest.describe(
            config.to_dict(),
            parts.dataset,
            parts.splits,
            trainer.model,
            hardware.describe(config.precision, parts.strategy.num_replicas_in_sync),
            manager.events,
            init_from,
        )
        manager.restore(trainer, description, parts.steps)
        save = functools.partial(_save, parts, manager, trainer, description)
        try:
            _fit(parts, trainer, save, log_dir, extra_callbacks)
            return trainer, description
        except NotFiniteError as error:
            if config.on_nonfinite == "stop" or manager.rollbacks == _MAX_ROLLBACKS:
                raise
            step = manager.latest[1]["step"] if manager.latest else 0
            if not manager.latest:
                for callback, state in zip(stateful, fresh, strict=True):
                    callback.restore(copy.deepcopy(state))
            rate *= _ROLLBACK_FACTOR
            manager.events.append(
                {"step": step, "event": "rollback", "learning_rate": rate}
            )
            warn(
                f"{error}. Rolling back to step {step} with --learning_rate="
                f"{rate:g} ({manager.rollbacks} of {_MAX_ROLLBACKS} rollbacks)"
            )


def _fit(
    parts: Parts,
    trainer: Trainer,
    save: Callable[[], None],
    log_dir: Path,
    extra_callbacks: Sequence[Callback],
) -> None:
    """Trains to the end, or until a signal or early stopping ends the run."""
    config, workers = parts.config, parts.workers
    if len(trainer.history) >= config.epochs:
        say("the run is complete; raise --epochs to train on")
    progress = callbacks.ProgressBar(done=trainer.step)
    logger = tensorboard.TensorBoardLogger(
        log_dir, config.to_dict(), trainer.step, workers.chief
    )

    def find_mistakes() -> Mistakes | None:
        return parts.find_mistakes("validation", trainer.validation_predictions)

    mistakes_logger = tensorboard.MistakesLogger(logger, find_mistakes)
    profiler = profiling.Profiler(
        log_dir, as_steps(config.profile_steps), workers.chief
    )
    early_stopping = callbacks.EarlyStopping(trainer, config.early_stopping)
    early_stopping.check()  # a run that is resumed may have stopped before
    # A checkpoint has the state that the callbacks before it have at its step.
    checkpointer = callbacks.Checkpointer(
        save, config.save_every, config.save_every_seconds, trainer.step,
        workers.gather,
    )  # fmt: skip

    def stop(signal: str) -> bool:
        if trainer.running:  # else there is nothing that is not saved
            trainer.stop(signal)
        return trainer.running

    with GracefulStop(stop, workers.tell) as signals:
        workers.on_signal(signals.receive_elsewhere)
        try:
            if not trainer.stopped:
                batches = parts.training_batches(trainer)
                _log_start(parts, logger, trainer, batches)
                trainer.fit(
                    batches,
                    epochs=config.epochs,
                    steps_per_epoch=parts.steps_per_epoch,
                    validation=parts.evaluation_batches("validation"),
                    callbacks=[
                        logger, *extra_callbacks, profiler.stop,
                        mistakes_logger, early_stopping, checkpointer, progress,
                        profiler.start,
                    ],
                )  # fmt: skip
        finally:
            progress.close()
            profiler.close()
        logger.close()
        signum = max(workers.gather(signals.signum))
        if signum:
            save()
            where = f"saved at step {trainer.step} of {parts.steps}"
            raise Interrupted(signum, f"{where}; continue with --resume")
    if trainer.stopped and len(trainer.history) < config.epochs:
        say(f"stopped early: {trainer.stopped}")


def _save(
    parts: Parts,
    manager: checkpoints.CheckpointManager,
    trainer: Trainer,
    description: Mapping[str, Any],
) -> None:
    """Saves a checkpoint; returns when the chief has written it."""
    manager.save(trainer, description)
    parts.workers.gather(None)


def _log_start(
    parts: Parts,
    logger: tensorboard.TensorBoardLogger,
    trainer: Trainer,
    batches: tf.data.Dataset,
) -> None:
    """Logs the first training images and the graph of the network, if it starts."""
    if not logger.starts or trainer.step >= parts.steps:
        return
    clock = time.perf_counter()
    first, _ = next(iter(batches))  # which the trainer gets, too
    images = parts.strategy.experimental_local_results(first)[0]
    logger.training_images(images, trainer.step)
    if parts.workers.count == 1:  # else all would have to trace it
        spec = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
        logger.graph("train", trainer.model, spec)
    trainer.seconds["callbacks"] += time.perf_counter() - clock
