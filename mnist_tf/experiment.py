"""One training run, from settings to a model directory.

`run.parts` makes data, network and trainer from the settings, `run.training` trains to
the end; here the result is evaluated and exported.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_tf.config import Config
from mnist_tf.errors import UserError, native_output_hidden, say

with native_output_hidden():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()

from mnist_tf import artifact, model
from mnist_tf.nn.typicality import Typicality
from mnist_tf.run import (
    checkpoints,
    cluster,
    directory,
    distribution,
    examination,
    hardware,
    manifest,
    publishing,
    tensorboard,
    training,
)
from mnist_tf.run.parts import Parts, own_shards
from mnist_tf.stats.mistakes import Mistakes, Predictions
from mnist_tf.trainer import Callback, Trainer

_AUTO = ("precision", "shards")  # settings whose "auto" depends on the hardware


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
      model: the trained network as it was evaluated and exported: float32, with
        test-time augmentation and temperature.
      description: the content of config.json but for the checksums of the model.
      metrics: the content of metrics.json.
      model_dir: the model directory.
      log_dir: the TensorBoard directory of the run.
      mistakes: those on the validation split, or on the test split if there is no
        other; None without both. Of several workers, in the share of the chief.
    """

    model: keras.Model
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    model_dir: Path
    log_dir: Path
    mistakes: Mistakes | None = None

    def __repr__(self) -> str:
        return str(self)  # in a notebook, too

    def __str__(self) -> str:
        folders = (self.model_dir, self.log_dir)
        return manifest.summary(self.description, self.metrics, folders)


def run(
    config: Config,
    strategy: tf.distribute.Strategy | None = None,
    *,
    trainer_class: Callable[..., Trainer] = Trainer,
    extra_callbacks: Sequence[Callback] = (),
) -> Result | None:
    """Trains as `config` says and writes the model directory.

    Args:
      config: all settings.
      strategy: the distribution strategy, in place of the one that the settings name.
      trainer_class: makes the trainer, such as a subclass with another `train_step`.
      extra_callbacks: called by each worker, after TensorBoard and before checkpoints
        and progress.

    Returns:
      The result; None in a worker that is not the chief.

    Raises:
      UserError: the settings do not fit the data or directories, or training failed.
      Interrupted: SIGINT or SIGTERM arrived; the state of the run is saved.
    """
    found = None if strategy else distribution.find_cluster(config.strategy)
    config = prepare(config, len(found.addresses) if found else 1)
    check = functools.partial(
        directory.check,
        config.model_dir,
        config.log_dir,
        resume=config.resume,
        overwrite=config.overwrite,
        publish=config.publish,
        data_dir=config.data_dir,
        cache_dir=config.cache_dir,
    )
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(cluster.joined(found, config.cluster_timeout))
        distribution.check_settings(workers, config)
        strategy = strategy or distribution.create(config.strategy, found)
        if workers.chief:
            check()
        else:  # what the chief says is enough
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        parts = Parts(config, strategy, trainer_class, workers)
        if workers.chief:
            stack.enter_context(directory.locked(config.model_dir))
            check()  # again, as the previous owner of the lock left them
        return _run(parts, extra_callbacks)


def prepare(config: Config, workers: int = 1) -> Config:
    """Sets the thread pools, and resolves what `auto` stands for on this computer.

    `workers` share the work. A run that is resumed keeps what was chosen at its start.
    """
    best: dict[str, Any] = {
        "precision": hardware.fastest_precision(),
        "shards": 1 if workers > 1 else hardware.fastest_shards(config.batch_size),
    }
    folder = Path(config.model_dir) / artifact.CHECKPOINTS
    saved = checkpoints.read_record(folder) if config.resume else None
    if saved:
        best = saved["description"]["config"]
    chosen = {name: best[name] for name in _AUTO if getattr(config, name) == "auto"}
    config = dataclasses.replace(config, **chosen)
    hardware.share_gpus()
    hardware.set_threads(config.intra_op_threads, config.inter_op_threads)
    hardware.divide_cores(own_shards(config, workers))
    return config


def _run(parts: Parts, extra_callbacks: Sequence[Callback]) -> Result | None:
    """Trains, evaluates and, as the chief, writes the model directory."""
    config, workers = parts.config, parts.workers
    model_dir = Path(config.model_dir)
    # A worker without the checkpoint learns from the check that it should have one.
    resume = config.resume if workers.chief else config.resume and "auto"
    manager = checkpoints.CheckpointManager(
        model_dir / artifact.CHECKPOINTS, resume, workers.chief
    )
    distribution.check_state(
        workers, data=parts.dataset.sha256, checkpoint=manager.checksum()
    )
    if workers.chief and not manager.log_name:
        manager.log_name = directory.new_log_name(config.log_dir, config.model)
    log_dir = Path(config.log_dir) / manager.log_name
    trainer, description = training.train(parts, manager, log_dir, extra_callbacks)
    trainer.finish()
    finished, fit = _finish(parts, trainer)
    measured, predictions = _evaluate(parts, trainer, finished)
    if not workers.chief:
        return None
    description |= {"temperature": fit.temperature, "reference": fit.reference}
    metrics = _export(
        parts,
        finished,
        fit.typicality,
        description,
        measured | fit.calibration,
        trainer.seconds,
    )
    if config.publish:
        version = publishing.publish(
            model_dir, config.publish, config.keep, again=False
        )
        say(f"published as {Path(config.publish) / str(version)}")
    tensorboard.log_final(log_dir, metrics)
    split = next(iter(predictions), "validation")
    found = parts.find_mistakes(split, predictions.get(split))
    return Result(finished, description, metrics, model_dir, log_dir, found)


def _finish(parts: Parts, trainer: Trainer) -> tuple[keras.Model, examination.Fit]:
    """Returns the model to export, and what is fitted to its predictions."""
    finished = parts.build_model("float32", finished=True)
    finished.set_weights(trainer.model.get_weights())
    clock = time.perf_counter()
    fit = _fit(parts, finished) if parts.workers.chief else examination.Fit()
    temperature = parts.workers.gather(fit.temperature)[0]
    if temperature != 1:
        finished = model.Calibrated(finished, temperature)
    trainer.seconds["evaluate"] += time.perf_counter() - clock
    return finished, fit


def _fit(parts: Parts, finished: keras.Model) -> examination.Fit:
    """Fits temperature and typicality to the predictions for a sample of the images."""
    config = parts.config
    splits = {split: parts.splits[split] for split in ("train", "validation")}
    found = examination.examine(finished, splits, own_shards(config, 1))
    sample = found["train"]
    images = parts.dataset.train_images[sample.rows]
    return examination.fit(images, sample, found.get("validation"), config.calibrate)


def _evaluate(
    parts: Parts, trainer: Trainer, finished: keras.Model
) -> tuple[dict[str, Any], dict[str, Predictions | None]]:
    """The content of metrics.json but its times, of the model that is exported.

    And the predictions for each split.
    """
    metrics: dict[str, Any] = {"dataset": parts.dataset.name}
    predictions: dict[str, Predictions | None] = {}
    splits = ("validation", "test") if parts.config.evaluate_test else ("validation",)
    for split in splits:
        batches = parts.evaluation_batches(split)
        if batches is not None:
            metrics[split] = trainer.evaluate(batches, finished)
            predictions[split] = trainer.predictions
    images = trainer.step * parts.config.batch_size
    metrics |= {
        "epochs": len(trainer.history),
        "steps": trainer.step,
        "parameters": trainer.model.count_params(),
        "images_per_second": images / trainer.seconds["train"],
        "history": trainer.history,
    }
    return metrics, predictions


def _export(
    parts: Parts,
    finished: keras.Model,
    fitted: Typicality | None,
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Mapping[str, Any]:
    """Writes the model directory; returns the content of metrics.json."""
    clock = time.perf_counter()

    def timed() -> dict[str, Any]:
        export = {"export": time.perf_counter() - clock}
        return {**metrics, "seconds": {**parts.seconds, **seconds, **export}}

    model_dir = parts.config.model_dir
    try:
        return artifact.write(
            model_dir,
            model=finished,
            image_shape=parts.dataset.preprocessing.image_shape,
            typicality=fitted,
            description=description,
            metrics=timed,
        )
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"--model_dir {model_dir} cannot be written to ({error}); free some "
            "space and continue with --resume"
        ) from error
