"""One training run, from settings to a model directory: wires the parts together."""

import dataclasses
import functools
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf import (
    actions,
    artifact,
    checkpoints,
    dataloader,
    datasets,
    folders,
    records,
)
from mnist_tf.config import Config
from mnist_tf.errors import Interrupted, UserError
from mnist_tf.model import MODELS, build
from mnist_tf.optimizers import WarmupSchedule, build_optimizer
from mnist_tf.trainer import Action, Trainer, cross_entropy

# What a setting that is a name may be; `Config` itself knows no TensorFlow.
KNOWN_NAMES = {"dataset": list(datasets.DATASETS), "model": list(MODELS)}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      model: the trained network, float32.
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
    strategy = strategy or tf.distribute.get_strategy()
    saves = folders.saves(config)
    folders.check(config)
    clock = time.perf_counter()
    dataset = datasets.load(config.dataset, config.data_dir)
    if dataset.warning:
        frame = "!" * 80
        lines = textwrap.wrap(f"warning: {dataset.warning}", 80)
        _say("\n".join([frame, *lines, frame]))
    splits = _split(config, dataset)
    seconds = {"data": time.perf_counter() - clock}

    one_pass = -(-len(splits["train"][1]) // config.batch_size)
    steps_per_epoch = max(one_pass, config.min_steps_per_epoch)
    trainer = _trainer(config, dataset, strategy, config.epochs * steps_per_epoch)
    description = records.describe(config, dataset, splits, trainer.model)
    log_name = folders.new_log_name(config)
    if config.resume:
        log_name = _resume(trainer, saves, description)
    elif config.overwrite:
        checkpoints.remove_all(saves)

    def save() -> None:
        arrays, record = trainer.state()
        record |= {"description": description, "log_name": log_name}
        checkpoints.save(saves, trainer.step, arrays, record)

    log_dir = Path(config.log_dir) / log_name
    _fit(config, splits, trainer, steps_per_epoch, save, log_dir)
    trainer.finish()
    figures = {"dataset": dataset.name, **_measure(config, splits, trainer)}
    seconds |= trainer.seconds
    model, metrics = _publish(config, dataset, trainer, description, figures, seconds)
    return Result(model, description, metrics, Path(config.model_dir), log_dir)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _split(config: Config, dataset: datasets.Dataset) -> dict[str, tuple]:
    """Images and labels for train, validation and test."""
    images, labels = dataset.train_images, dataset.train_labels
    train, validation = dataloader.split_validation(
        labels, config.validation_split, config.seed
    )
    if config.validation_split and not len(validation):
        raise UserError(
            f"validation_split: got {config.validation_split}, which is none of the "
            f"{len(labels)} training images; raise it, or set it to 0"
        )
    if config.batch_size > len(train):
        raise UserError(
            f"batch_size: got {config.batch_size}, above the {len(train)} training "
            "images; lower it"
        )
    return {
        "train": (images[train], labels[train]),
        "validation": (images[validation], labels[validation]),
        "test": (dataset.test_images, dataset.test_labels),
    }


def _build(config: Config, dataset: datasets.Dataset, precision: str) -> keras.Model:
    return build(
        config.model,
        dataclasses.asdict(config),
        image_shape=dataset.train_images.shape[1:],
        num_classes=len(dataset.labels),
        precision=precision,
    )


def _trainer(
    config: Config,
    dataset: datasets.Dataset,
    strategy: tf.distribute.Strategy,
    steps: int,
) -> Trainer:
    clock = time.perf_counter()
    keras.utils.set_random_seed(config.seed)
    # Costs nothing measurable here, as the pipeline has no stateful random operation.
    tf.config.experimental.enable_op_determinism()
    with strategy.scope():
        schedule = WarmupSchedule(
            config.learning_rate, steps, config.warmup, config.schedule
        )
        optimizer = build_optimizer(
            config.optimizer,
            schedule,
            momentum=config.momentum,
            beta_2=config.beta_2,
            weight_decay=config.weight_decay,
            gradient_clip=config.gradient_clip,
            ema_decay=config.ema_decay,
        )
        model = _build(config, dataset, config.precision)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        loss=functools.partial(cross_entropy, label_smoothing=config.label_smoothing),
        evaluation_loss=cross_entropy,
        strategy=strategy,
        select=config.select,
        steps_per_call=min(config.log_every, config.save_every or config.log_every),
    )
    trainer.seconds["trace"] = time.perf_counter() - clock
    return trainer


def _training_batches(
    config: Config,
    split: tuple[np.ndarray, np.ndarray],
    trainer: Trainer,
    stop: int,
) -> tf.data.Dataset:
    augmentation = {
        "none": None,
        "shift": dataloader.Augmentation(config.augment_shift, whole_pixels=True),
        "affine": dataloader.Augmentation(
            config.augment_shift,
            config.augment_rotation,
            config.augment_zoom,
            config.augment_shear,
        ),
    }[config.augment]

    def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return dataloader.training_batches(
            *split,
            batch_size=config.batch_size,
            seed=config.seed,
            augmentation=augmentation,
            start=trainer.step,
            stop=stop,
            replicas=context.num_replicas_in_sync,
            pipeline=context.input_pipeline_id,
            pipelines=context.num_input_pipelines,
        )

    return trainer.strategy.distribute_datasets_from_function(pipeline)


def _resume(trainer: Trainer, saves: Path, description: Mapping[str, Any]) -> str:
    """Puts the trainer where the last save left it; returns the name of its logs."""
    arrays, record, damaged = checkpoints.load(saves)
    for sentence in damaged:
        _say(f"warning: {sentence}; using the one before")
    records.check_same(record["description"], description)
    trainer.restore(arrays, record)
    return record["log_name"]


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
        actions.SaveState(save, config.save_every, config.save_every_seconds),
    ]
    if config.early_stopping:
        patience = config.early_stopping
        along.append(
            actions.EarlyStopping(trainer.stop, lambda: trainer.history, patience)
        )
    with actions.StopOnSignal(trainer.stop) as signals:
        try:
            trainer.fit(
                _training_batches(config, splits["train"], trainer, steps),
                epochs=config.epochs,
                steps_per_epoch=steps_per_epoch,
                validation=_evaluation_batches(splits["validation"], trainer),
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
    dataset: datasets.Dataset,
    trainer: Trainer,
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> tuple[keras.Model, Mapping[str, Any]]:
    """Writes the model directory; returns the model in it and its metrics."""
    clock = time.perf_counter()

    def timed() -> dict[str, Any]:
        export = time.perf_counter() - clock
        return {**metrics, "seconds": {**seconds, "export": export}}

    model = _build(config, dataset, "float32")
    model.set_weights(trainer.model.get_weights())
    written = artifact.write(
        config.model_dir,
        model=model,
        image_shape=dataset.train_images.shape[1:],
        description=description,
        metrics=timed,
    )
    return model, written


def _measure(
    config: Config, splits: Mapping[str, tuple], trainer: Trainer
) -> dict[str, Any]:
    """All figures of a finished run but its times."""
    measured: dict[str, Any] = {}
    for name in ("validation", "test"):
        batches = _evaluation_batches(splits[name], trainer)
        if batches is not None:
            measured[name] = trainer.evaluate(batches)
    images = trainer.step * config.batch_size
    return measured | {
        "epochs": len(trainer.history),
        "steps": trainer.step,
        "parameters": trainer.model.count_params(),
        "images_per_second": images / trainer.seconds["train"],
        "history": trainer.history,
    }


def _evaluation_batches(
    split: tuple[np.ndarray, np.ndarray], trainer: Trainer
) -> Iterable | None:
    if not len(split[1]):
        return None
    batches = dataloader.evaluation_batches(*split)
    return trainer.strategy.experimental_distribute_dataset(batches)
