"""One training run, from settings to a model directory: wires the parts together."""

import dataclasses
import functools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mnist_tf import actions, artifact, checkpoints, dataloader, datasets
from mnist_tf.config import Config
from mnist_tf.errors import Interrupted, UserError
from mnist_tf.model import MODELS, build
from mnist_tf.optimizers import WarmupSchedule, build_optimizer
from mnist_tf.trainer import Action, Trainer, cross_entropy

# What a setting that is a name may be; `Config` itself knows no TensorFlow.
KNOWN_NAMES = {"dataset": list(datasets.DATASETS), "model": list(MODELS)}

# Settings that may change when a run is resumed: the rest decides the weights.
_FREE_ON_RESUME = {
    "data_dir", "epochs", "early_stopping", "model_dir", "log_dir", "resume",
    "overwrite", "save_every", "save_every_seconds", "log_every",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      description: what config.json says.
      metrics: what metrics.json says.
      model_dir: where the model is.
      log_dir: where its curves are.
    """

    description: Mapping[str, Any]
    metrics: Mapping[str, Any]
    model_dir: Path
    log_dir: Path


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
    model_dir = Path(config.model_dir)
    saves = model_dir / artifact.CHECKPOINTS
    _check_folders(config, saves)
    clock = time.perf_counter()
    dataset = datasets.load(config.dataset, config.data_dir)
    if dataset.warning:
        _say(f"warning: {dataset.warning}\n")
    splits = _split(config, dataset)
    data_seconds = time.perf_counter() - clock

    clock = time.perf_counter()
    one_pass = -(-len(splits["train"][1]) // config.batch_size)
    steps_per_epoch = max(one_pass, config.min_steps_per_epoch)
    steps = config.epochs * steps_per_epoch
    trainer = _trainer(config, dataset, strategy, steps)
    trainer.seconds["trace"] = time.perf_counter() - clock

    description = _describe(config, dataset, splits, trainer.model)
    log_name = _new_log_name(config)
    if config.resume:
        log_name = _resume(trainer, saves, description)
        if trainer.step >= steps:
            _say("the run is finished; raise --epochs to go on with it")
    elif config.overwrite:
        checkpoints.remove_all(saves)

    def save() -> None:
        arrays, record = trainer.state()
        record |= {"description": description, "log_name": log_name}
        checkpoints.save(saves, trainer.step, arrays, record)

    log_dir = Path(config.log_dir) / log_name
    with actions.StopOnSignal(trainer.stop) as signals:
        _fit(config, splits, strategy, trainer, steps_per_epoch, save, log_dir)
        if signals.signum:
            save()
            raise Interrupted(
                signals.signum,
                f"saved at step {trainer.step} of {steps}; --resume goes on from there",
            )
    if trainer.stopped:
        _say(f"stopped early: {trainer.stopped}")
    trainer.finish()
    metrics = {"dataset": dataset.name, **_measure(config, splits, trainer)}

    clock = time.perf_counter()

    def timed() -> dict[str, Any]:
        export = time.perf_counter() - clock
        seconds = {"data": data_seconds, **trainer.seconds, "export": export}
        return {**metrics, "seconds": seconds}

    inference = _build(config, dataset, "float32")
    inference.set_weights(trainer.model.get_weights())
    written = artifact.write(
        model_dir,
        model=inference,
        image_shape=dataset.train_images.shape[1:],
        description=description,
        metrics=timed,
    )
    return Result(description, written, model_dir, log_dir)


def summary(result: Result) -> str:
    """What a run came to, for the terminal."""
    about, metrics = result.description, result.metrics
    images = about["dataset"]["images"]
    counts = ", ".join(f"{count:,} {name}" for name, count in images.items() if count)
    lines = [
        f"data        {metrics['dataset']} ({about['dataset']['origin']}): {counts}",
        f"model       {about['model']['name']}, {metrics['parameters']:,} parameters",
        f"training    {metrics['epochs']} epochs, {metrics['steps']:,} steps, "
        f"{metrics['images_per_second']:,.0f} images/s",
    ]
    for name in ("validation", "test"):
        if name in metrics:
            lines.append(
                f"{name:<11} accuracy {metrics[name]['accuracy'] * 100:.2f} %  "
                f"loss {metrics[name]['loss']:.4f}"
            )
    seconds = metrics["seconds"].items()
    lines += [
        f"time        {', '.join(f'{name} {value:.1f} s' for name, value in seconds)}",
        f"saved in    {result.model_dir}",
        f"curves in   {result.log_dir}",
    ]
    return "\n".join(lines)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _check_folders(config: Config, saves: Path) -> None:
    """Refuses folders that cannot be written to, or hold what would be lost."""
    problems = []
    for name in ("model_dir", "log_dir"):
        folder = Path(getattr(config, name)).absolute()
        existing = next(p for p in (folder, *folder.parents) if p.exists())
        if not existing.is_dir():
            problems.append(f"{name}: {existing} is a file; give a folder")
        elif not os.access(existing, os.W_OK | os.X_OK):
            problems.append(f"{name}: {existing} cannot be written to; give another")
    if problems:
        raise UserError("; ".join(problems))
    used = artifact.holds_model(config.model_dir) or checkpoints.find(saves)
    if used and not (config.resume or config.overwrite):
        raise UserError(
            f"model_dir: {config.model_dir} holds a model or an unfinished run; give "
            "--overwrite to replace it, --resume to go on with it, or another "
            "--model_dir"
        )


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
    return Trainer(
        model=model,
        optimizer=optimizer,
        loss=functools.partial(cross_entropy, label_smoothing=config.label_smoothing),
        evaluation_loss=cross_entropy,
        strategy=strategy,
        select=config.select,
        steps_per_call=min(config.log_every, config.save_every or config.log_every),
    )


def _training_batches(
    config: Config,
    split: tuple[np.ndarray, np.ndarray],
    strategy: tf.distribute.Strategy,
    start: int,
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
            start=start,
            stop=stop,
            replicas=context.num_replicas_in_sync,
            pipeline=context.input_pipeline_id,
            pipelines=context.num_input_pipelines,
        )

    return strategy.distribute_datasets_from_function(pipeline)


def _resume(trainer: Trainer, saves: Path, description: Mapping[str, Any]) -> str:
    """Puts the trainer where the last save left it; returns the name of its logs."""
    arrays, record, damaged = checkpoints.load(saves)
    for sentence in damaged:
        _say(f"warning: {sentence}; using the one before")
    _check_same(record["description"], description)
    trainer.restore(arrays, record)
    return record["log_name"]


def _fit(
    config: Config,
    splits: Mapping[str, tuple],
    strategy: tf.distribute.Strategy,
    trainer: Trainer,
    steps_per_epoch: int,
    save: Callable[[], None],
    log_dir: Path,
) -> None:
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
    batches = _training_batches(
        config, splits["train"], strategy, trainer.step, config.epochs * steps_per_epoch
    )
    try:
        trainer.fit(
            batches,
            epochs=config.epochs,
            steps_per_epoch=steps_per_epoch,
            validation=_evaluation_batches(splits["validation"], strategy),
            actions=along,
        )
    finally:
        progress.close()


def _measure(
    config: Config, splits: Mapping[str, tuple], trainer: Trainer
) -> dict[str, Any]:
    """All figures of a finished run but its times."""
    measured: dict[str, Any] = {}
    for name in ("validation", "test"):
        batches = _evaluation_batches(splits[name], trainer.strategy)
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
    split: tuple[np.ndarray, np.ndarray], strategy: tf.distribute.Strategy
) -> Iterable | None:
    if not len(split[1]):
        return None
    batches = dataloader.evaluation_batches(*split)
    return strategy.experimental_distribute_dataset(batches)


def _describe(
    config: Config,
    dataset: datasets.Dataset,
    splits: Mapping[str, tuple],
    model: keras.Model,
) -> dict[str, Any]:
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    return {
        "config": config.to_dict(),
        "dataset": {
            "name": dataset.name,
            "origin": dataset.origin,
            "sha256": dataset.sha256,
            "labels": list(dataset.labels),
            "image_shape": list(dataset.train_images.shape[1:]),
            "images": {name: len(labels) for name, (_, labels) in splits.items()},
        },
        "model": {
            "name": config.model,
            "class": type(model).__name__,
            "parameters": model.count_params(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        },
        "git_commit": _git_commit(),
    }


def _check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to resume with settings or data that would train something else."""
    differ = [
        f"{name} was {value!r}, is {now['config'][name]!r}"
        for name, value in saved["config"].items()
        if name not in _FREE_ON_RESUME and value != now["config"][name]
    ]
    if saved["dataset"]["sha256"] != now["dataset"]["sha256"]:
        was, is_now = saved["dataset"]["name"], now["dataset"]["name"]
        differ.append(f"the data were {was}, are {is_now}")
    if differ:
        raise UserError(
            f"resume: {'; '.join(differ)}; give what the run was started with, or "
            "--overwrite to start again"
        )


def _new_log_name(config: Config) -> str:
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.model}"
    others = 1
    while (Path(config.log_dir) / name).exists():
        others += 1
        name = f"{name.partition('+')[0]}+{others}"
    return name


def _git_commit() -> str | None:
    """The commit that this code is at; None outside a git checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return found.stdout.strip() or None
