"""One training run, from settings to a model directory: wires the parts together."""

import dataclasses
import functools
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
from mnist_tf.trainer import NotFiniteError, Trainer

# What a setting that is a name may be; `Config` itself knows no TensorFlow.
KNOWN_NAMES = {"dataset": list(datasets.DATASETS), "model": list(MODELS)}

_MOST_ROLLBACKS = 3  # what three cannot mend is not the learning rate
_SLOWER = 0.5  # what a rollback makes of the learning rate


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
    folders.check(config)
    clock = time.perf_counter()
    dataset = datasets.load(config.dataset, config.data_dir)
    if dataset.warning:
        warn(dataset.warning)
    splits = assembly.split(config, dataset, strategy.num_replicas_in_sync)
    seconds = {"data": time.perf_counter() - clock}
    with folders.locked(config.model_dir):
        folders.check(config)  # as others left it that had the lock
        saves = _Saves(config)
        trainer, description = _train(config, dataset, splits, strategy, saves)
        trainer.finish()
        model = assembly.finished_model(config, dataset, trainer)
        figures = {"dataset": dataset.name, **_measure(config, splits, trainer, model)}
        seconds |= trainer.seconds
        metrics = _publish(config, model, description, figures, seconds)
    return Result(model, description, metrics, Path(config.model_dir), saves.log_dir)


class _Saves:
    """The saves of a run: the files, and the last one in memory.

    Args:
      config: all settings; with `resume`, the last save that is whole is read.

    Attributes:
      log_dir: where the curves of the run are.
      rollbacks: how often the run went back to a save because of what is not finite.

    Raises:
      UserError: there is no save to resume from, or none that can be read.
    """

    def __init__(self, config: Config) -> None:
        self.folder = folders.saves(config)
        self.stale = checkpoints.find(self.folder) if config.overwrite else []
        self.last: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None
        self.rollbacks = 0
        if config.resume:
            arrays, record, damaged = checkpoints.load(self.folder)
            for sentence in damaged:
                _say(f"warning: {sentence}; using the one before")
            self.last = arrays, record
            self.rollbacks = record["rollbacks"]
            self.log_name = record["log_name"]
        else:
            self.log_name = folders.new_log_name(config)
        self.log_dir = Path(config.log_dir) / self.log_name

    def restore(self, trainer: Trainer, description: Mapping[str, Any]) -> None:
        """Puts a new trainer where the last save is, if there is one."""
        if self.last:
            arrays, record = self.last
            records.check_same(record["description"], description)
            trainer.restore(arrays, record)

    def save(self, trainer: Trainer, description: Mapping[str, Any]) -> None:
        """Saves where a trainer is."""
        arrays, record = trainer.state()
        record |= {
            "description": description,
            "log_name": self.log_name,
            "rollbacks": self.rollbacks,
        }
        checkpoints.save(self.folder, trainer.step, arrays, record, self.stale)
        self.stale = []
        self.last = arrays, record


def _train(
    config: Config,
    dataset: datasets.Dataset,
    splits: Mapping[str, tuple],
    strategy: tf.distribute.Strategy,
    saves: _Saves,
) -> tuple[Trainer, dict[str, Any]]:
    """Trains to the end; returns the trainer and what config.json says of the run."""
    steps_per_epoch = assembly.steps_per_epoch(config, len(splits["train"][1]))
    steps = config.epochs * steps_per_epoch
    while True:
        rate = config.learning_rate * _SLOWER**saves.rollbacks
        slowed = dataclasses.replace(config, learning_rate=rate)
        trainer = assembly.build_trainer(slowed, dataset, strategy, steps)
        assembly.check_room(config, dataset, trainer)
        description = records.describe(config, dataset, splits, trainer.model)
        saves.restore(trainer, description)
        try:
            save = functools.partial(saves.save, trainer, description)
            _fit(config, splits, trainer, steps_per_epoch, save, saves.log_dir)
            return trainer, description
        except NotFiniteError as error:
            if config.on_nonfinite == "stop" or saves.rollbacks == _MOST_ROLLBACKS:
                raise
            saves.rollbacks += 1
            step = saves.last[1]["step"] if saves.last else 0
            warn(
                f"{error}. Goes back to step {step} with --learning_rate="
                f"{rate * _SLOWER:g} ({saves.rollbacks} of {_MOST_ROLLBACKS} times)"
            )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


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
    curves = actions.WriteCurves(log_dir, config.to_dict(), trainer.step)
    along: list[Action] = [
        progress,
        curves,
        actions.SaveState(
            save, config.save_every, config.save_every_seconds, trainer.step
        ),
    ]
    if config.early_stopping:
        patience = config.early_stopping
        early = actions.EarlyStopping(trainer.stop, lambda: trainer.history, patience)
        early.check()
        along.append(early)

    def stop(signal: str) -> bool:
        if trainer.running:  # else nothing is lost that is not saved
            trainer.stop(signal)
        return trainer.running

    with actions.StopOnSignal(stop) as signals:
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
        curves.close()
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
    try:
        return artifact.write(
            config.model_dir,
            model=model,
            image_shape=(height, width),
            description=description,
            metrics=timed,
        )
    except (OSError, tf.errors.OpError) as error:
        raise UserError(
            f"model_dir: {config.model_dir} cannot be written to ({error}); make room "
            "for the model, then go on with --resume"
        ) from error


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
