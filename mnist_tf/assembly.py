"""Settings and data -> the parts of a run: splits, network, trainer and batches."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mnist_tf import checkpoints, dataloader, machine
from mnist_tf.config import Config
from mnist_tf.datasets import Dataset
from mnist_tf.errors import UserError
from mnist_tf.losses import cross_entropy
from mnist_tf.model import ShiftAveraged, build
from mnist_tf.optimizers import WarmupSchedule, build_optimizer
from mnist_tf.trainer import Trainer

_LARGE_BATCH = 512  # images


def prepare(config: Config) -> Config:
    """Sets the threads, and says what `auto` stands for on this computer."""
    machine.use_threads(config.intra_op_threads, config.inter_op_threads)
    if config.shards > 1:
        machine.share_cores(config.shards)
    if config.precision != "auto":
        return config
    return dataclasses.replace(config, precision=machine.fastest_precision())


def split(config: Config, dataset: Dataset, replicas: int) -> dict[str, tuple]:
    """Divides the data into train, validation and test, and checks that they suffice.

    Args:
      config: all settings.
      dataset: what was loaded.
      replicas: devices that share a step.

    Returns:
      (images uint8 [n, H, W], labels int64 [n]) by the name of the split.

    Raises:
      UserError: the batch or the validation split does not fit the data, the shards
        or the devices.
    """
    images, labels = dataset.train_images, dataset.train_labels
    train, validation = dataloader.split_validation(
        labels, config.validation_split, config.seed
    )
    if config.validation_split and not len(validation):
        raise UserError(
            f"validation_split: got {config.validation_split}, which is none of the "
            f"{len(labels)} training images; raise it, or set it to 0"
        )
    parts = replicas * config.shards
    if config.batch_size % parts:
        raise UserError(
            f"batch_size: got {config.batch_size}, no multiple of {parts} (shards "
            "times devices); give one, or fewer shards"
        )
    if config.gradient_clip and replicas > 1:
        raise UserError(
            f"gradient_clip: got {config.gradient_clip}; give 0, as several devices "
            "would each clip their own part"
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


def steps_per_epoch(config: Config, images: int) -> int:
    """Steps of one pass over so many images, within the limits of the settings."""
    one_pass = -(-images // config.batch_size)
    steps = max(one_pass, config.min_steps_per_epoch)
    return min(steps, config.max_steps_per_epoch or steps)


def build_model(config: Config, dataset: Dataset, precision: str) -> keras.Model:
    """Makes the network that the settings name, for the data's images and labels."""
    return build(
        config.model,
        dataclasses.asdict(config),
        image_shape=dataset.train_images.shape[1:],
        num_classes=len(dataset.labels),
        precision=precision,
    )


def finished_model(config: Config, dataset: Dataset, trainer: Trainer) -> keras.Model:
    """The network that a run ends with: what is measured, and what is kept.

    It computes in float32 whatever the precision of the training.
    """
    model = build_model(config, dataset, "float32")
    model.set_weights(trainer.model.get_weights())
    return ShiftAveraged(model, config.test_shift) if config.test_shift else model


def build_trainer(
    config: Config,
    dataset: Dataset,
    strategy: tf.distribute.Strategy,
    steps: int,
) -> Trainer:
    """Makes the network, its optimizer and its trainer for a run of `steps` steps."""
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
        model = build_model(config, dataset, config.precision)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        loss=functools.partial(cross_entropy, label_smoothing=config.label_smoothing),
        evaluation_loss=cross_entropy,
        strategy=strategy,
        select=config.select,
        steps_per_look=min(config.log_every, config.save_every or config.log_every),
        shards=config.shards,
    )
    trainer.seconds["trace"] += time.perf_counter() - clock
    return trainer


def check_room(config: Config, dataset: Dataset, trainer: Trainer) -> None:
    """Refuses a run that would not fit the memory or the disk.

    Both are estimates from below: the images twice more than they are loaded, the
    weights, what the optimizer keeps and one more copy of both, and for large batches
    the tensors between the layers, with their gradients; on the disk the saves and the
    model in both formats.

    Raises:
      UserError: it would not; the message has the numbers.
    """
    variables = [*trainer.model.variables, *trainer.optimizer.variables]
    state = sum(math.prod(each.shape) * 4 for each in variables)
    memory = 2 * dataset.train_images.nbytes + 2 * state
    # A small batch fits anywhere, and tracing takes a third of a second.
    if config.batch_size > _LARGE_BATCH:
        image_shape = dataset.train_images.shape[1:]
        per_image = _bytes_between_layers(trainer.model, image_shape)
        memory += 2 * config.batch_size * per_image
    machine.check_memory(memory, "batch_size and the size of the network: the run")
    disk = (checkpoints.KEEP + 1) * state + 3 * trainer.model.count_params() * 4
    machine.check_disk(Path(config.model_dir), disk, "model_dir: the run")


def _bytes_between_layers(model: keras.Model, image_shape: tuple[int, ...]) -> int:
    """The tensors that the network makes of one image while it trains."""

    @tf.function(autograph=False)
    def forward(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=True)

    image = tf.TensorSpec([None, *image_shape, 1], tf.uint8)
    tensors = [
        tensor
        for operation in forward.get_concrete_function(image).graph.get_operations()
        for tensor in operation.outputs
    ]
    return sum(
        tensor.shape[1:].num_elements() * tensor.dtype.size
        for tensor in tensors
        if tensor.shape.rank
        and tensor.shape[0] is None
        and tensor.shape[1:].is_fully_defined()
    )


def training_batches(
    config: Config,
    split: tuple[np.ndarray, np.ndarray],
    trainer: Trainer,
    stop: int,
) -> tf.data.Dataset:
    """The batches from the trainer's step to `stop`, shared out among its devices."""
    clock = time.perf_counter()
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

    batches = trainer.strategy.distribute_datasets_from_function(pipeline)
    trainer.seconds["trace"] += time.perf_counter() - clock
    return batches


def evaluation_batches(
    split: tuple[np.ndarray, np.ndarray], trainer: Trainer
) -> Iterable | None:
    """Every sample of a split once; None if it has none."""
    if not len(split[1]):
        return None
    batches = dataloader.evaluation_batches(*split)
    return trainer.strategy.experimental_distribute_dataset(batches)
