"""One training run, from settings to a model directory: wires the parts together."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf import (
    actions,
    artifact,
    assembly,
    checkpoints,
    dataloader,
    datasets,
    evaluation,
    folders,
    records,
)
from mnist_tf.config import Config
from mnist_tf.errors import Interrupted, UserError, warn
from mnist_tf.model import MODELS
from mnist_tf.progress import Action
from mnist_tf.trainer import Trainer

# What a setting that is a name may be; `Config` itself knows no TensorFlow.
KNOWN_NAMES = {"dataset": list(datasets.DATASETS), "model": list(MODELS)}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      model: the trained network as it was measured and written: float32, and with its
        answers averaged over shifts if `test_shift` says so.
      description: what config.json says.
      metrics: what metrics.json says.
      model_dir: where the model is.
      log_dir: where its curves are.
    """

    model: keras.Model
    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    model_dir: Path
    log_dir: Path

    def __str__(self) -> str:
        places = (self.model_dir, self.log_dir)
        return records.summary(self.description, self.metrics, places)


def run(config: Config, strategy: tf.distribute.Strategy | None = None) -> Result:
    """Trains as `config` says and writes the model directory.

    Args:
      config: all settings.
      strategy: devices to train on; the one in force unless given.

    Raises:
      UserError: the settings do not fit the data or the folders, or training failed.
      Interrupted: SIGINT or SIGTERM came; the state of the run is saved.
    """
    config = assembly.prepare(config)
    strategy = strategy or tf.distribute.get_strategy()
    saves = folders.saves(config)
    folders.check(config)
    clock = time.perf_counter()
    dataset = datasets.load(config.dataset, config.data_dir)
    if dataset.warning:
        warn(dataset.warning)
    splits = assembly.split(config, dataset, strategy.num_replicas_in_sync)
    seconds = {"data": time.perf_counter() - clock}

    steps_per_epoch = assembly.steps_per_epoch(config, len(splits["train"][1]))
    trainer = assembly.build_trainer(
        config, dataset, strategy, config.epochs * steps_per_epoch
    )
    description = records.describe(config, dataset, splits, trainer.model)
    log_name = folders.new_log_name(config)
    if config.resume:
        log_name = _resume(trainer, saves, description)
    stale = checkpoints.find(saves) if config.overwrite else []

    def save() -> None:
        while stale:
            stale.pop().unlink()
        arrays, record = trainer.state()
        record |= {"description": description, "log_name": log_name}
        checkpoints.save(saves, trainer.step, arrays, record)

    log_dir = Path(config.log_dir) / log_name
    _fit(config, splits, trainer, steps_per_epoch, save, log_dir)
    trainer.finish()
    model = assembly.finished_model(config, dataset, trainer)
    figures = {"dataset": dataset.name, **_measure(config, splits, trainer, model)}
    seconds |= trainer.seconds
    metrics = _publish(config, model, description, figures, seconds)
    return Result(model, description, metrics, Path(config.model_dir), log_dir)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _resume(trainer: Trainer, saves: Path, description: Mapping[str, Any]) -> str:
    """Puts the trainer where the last save left it; returns the name of its logs."""
    arrays, record, damaged = checkpoints.load(saves)
    for sentence in damaged:
        _say(f"warning: {sentence}; using the one before")
    try:
        records.check_same(record["description"], description)
        trainer.restore(arrays, record)
        return record["log_name"]
    except KeyError as error:
        raise UserError(f"resume: {saves}: the save lacks {error}") from error


def _fit(
    config: Config,
    splits: Mapping[str, tuple],
    trainer: Trainer,
    steps_per_epoch: int,
    save: Callable[[], None],
    log_dir: Path,
) -> None:
    """Trains to the end, or until a signal or the early stop says so."""
    steps = config.epochs * steps_per_epoch
    if trainer.step >= steps:
        _say("the run is finished; raise --epochs to go on with it")
    progress = actions.ShowProgress(done=trainer.step)
    along: list[Action] = [
        progress,
        actions.WriteCurves(log_dir, config.to_dict()),
        actions.SaveState(
            save, config.save_every, config.save_every_seconds, trainer.step
        ),
    ]
    if config.early_stopping:
        patience = config.early_stopping
        stop = actions.EarlyStopping(trainer.stop, lambda: trainer.history, patience)
        stop.check()
        along.append(stop)
    with actions.StopOnSignal(trainer.stop) as signals:
        try:
            trainer.fit(
                assembly.training_batches(config, splits["train"], trainer, steps),
                epochs=config.epochs,
                steps_per_epoch=steps_per_epoch,
                validation=assembly.evaluation_batches(splits["validation"], trainer),
                actions=along,
            )
        finally:
            progress.close()
        if signals.signum:
            save()
            raise Interrupted(
                signals.signum,
                f"saved at step {trainer.step} of {steps}; --resume goes on from there",
            )
    if trainer.stopped:
        _say(f"stopped early: {trainer.stopped}")


def _publish(
    config: Config,
    model: keras.Model,
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Mapping[str, Any]:
    """Writes the model directory; returns its metrics."""
    clock = time.perf_counter()

    def timed() -> dict[str, Any]:
        export = time.perf_counter() - clock
        return {**metrics, "seconds": {**seconds, "export": export}}

    height, width = description["dataset"]["image_shape"]
    return artifact.write(
        config.model_dir,
        model=model,
        image_shape=(height, width),
        description=description,
        metrics=timed,
    )


def _measure(
    config: Config, splits: Mapping[str, tuple], trainer: Trainer, model: keras.Model
) -> dict[str, Any]:
    """All figures of a finished run but its times, on the model that is written."""
    measured: dict[str, Any] = {}
    clock = time.perf_counter()
    for name in ("validation", "test"):
        images, labels = splits[name]
        if len(labels):
            batches = dataloader.evaluation_batches(images, labels)
            answers = [tf.nn.softmax(model(batch)) for batch, _ in batches]
            found = evaluation.evaluate(np.concatenate(answers), labels)
            measured[name] = {"accuracy": found.accuracy, "loss": found.loss}
    trainer.seconds["evaluate"] += time.perf_counter() - clock
    images = trainer.step * config.batch_size
    return measured | {
        "epochs": len(trainer.history),
        "steps": trainer.step,
        "parameters": trainer.model.count_params(),
        "images_per_second": images / trainer.seconds["train"],
        "history": trainer.history,
    }
