"""The parts of a run, made from its settings: data, network, trainer and batches."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mnist_tf import data, dataloader, model, nn
from mnist_tf.config import Config, as_steps
from mnist_tf.errors import UserError, warn
from mnist_tf.run import cluster, fine_tuning, hardware, profiling, tensorboard
from mnist_tf.run.examination import Split
from mnist_tf.stats.mistakes import Mistakes, Predictions, find_mistakes
from mnist_tf.trainer import Trainer


class Parts:
    """The parts of a run.

    Args:
      config: all settings, from `experiment.prepare`.
      strategy: the distribution strategy; by default the current one.
      trainer_class: makes the trainer.
      workers: the processes that train together.

    Attributes:
      config, strategy, workers: the arguments.
      dataset: the data set.
      splits: images, labels and indices into both, of train, validation and test.
      steps_per_epoch: steps in each epoch.
      steps: steps in the run.
      seconds: what reading the data took, for metrics.json.

    Raises:
      UserError: the settings do not fit the data.
    """

    def __init__(
        self,
        config: Config,
        strategy: tf.distribute.Strategy | None = None,
        trainer_class: Callable[..., Trainer] = Trainer,
        workers: cluster.Workers = cluster.ALONE,
    ) -> None:
        clock = time.perf_counter()
        self.config = config
        self.workers = workers
        self.strategy = strategy or tf.distribute.get_strategy()
        self.trainer_class = trainer_class
        if not workers.chief:
            workers.gather(None)  # the chief has made the cache
        self.dataset = data.load(
            config.dataset,
            config.data_dir,
            data.Preprocessing(
                config.preprocess, config.image_size, config.image_size, config.color,
                config.resize,
            ),
            cache_dir=config.cache_dir,
            strict=config.strict,
        )  # fmt: skip
        if workers.chief:
            workers.gather(None)
        for warning in self.dataset.warnings():
            warn(warning)
        self.splits = _split(config, self.dataset)
        _check_batch_size(
            config, len(self.splits["train"][2]), self.strategy.num_replicas_in_sync
        )
        _check_validation(config, len(self.splits["validation"][2]))
        _warn_of_missing_classes(self.splits, self.dataset.labels)
        steps = -(-len(self.splits["train"][2]) // config.batch_size)  # in one pass
        steps = max(steps, config.min_steps_per_epoch)
        self.steps_per_epoch = min(steps, config.max_steps_per_epoch or steps)
        self.steps = config.epochs * self.steps_per_epoch
        _check_profile(config, self.steps)
        self.seconds = {"data": time.perf_counter() - clock}

    def build_model(self, precision: str, finished: bool = False) -> keras.Model:
        """Builds the network for the images and labels of the data set.

        If it is `finished`, with the test-time augmentation.
        """
        config = self.config
        return model.build(
            config.model,
            vars(config),
            image_shape=self.dataset.preprocessing.image_shape,
            num_classes=len(self.dataset.labels),
            precision=precision,
            test_shift=config.test_shift if finished else 0,
            test_flip=config.test_flip and finished,
            sync_batch_norm=config.sync_batch_norm and not finished,
        )

    def build_trainer(self, learning_rate: float) -> Trainer:
        """Builds network, optimizer and trainer, for this peak learning rate."""
        clock = time.perf_counter()
        config = self.config
        keras.utils.set_random_seed(config.seed)
        # Costs nothing measurable, as the pipeline has no stateful random operation.
        tf.config.experimental.enable_op_determinism()
        weights = None
        if config.class_weights == "balanced":
            _, labels, indices = self.splits["train"]
            weights = nn.balanced_weights(labels[indices], len(self.dataset.labels))
        loss = functools.partial(
            nn.cross_entropy,
            label_smoothing=config.label_smoothing,
            class_weights=weights,
        )
        with self.strategy.scope():
            schedule = nn.WarmupSchedule(
                learning_rate, self.steps, config.warmup, config.schedule
            )
            optimizer = nn.build_optimizer(
                config.optimizer,
                schedule,
                momentum=config.momentum,
                beta_2=config.beta_2,
                weight_decay=config.weight_decay,
                global_clipnorm=config.global_clipnorm,
                ema_decay=config.ema_decay,
            )
            network = self.build_model(config.precision)
            if config.train_only == "head":
                fine_tuning.freeze_all_but_head(network)
        trainer = self.trainer_class(
            model=network,
            optimizer=optimizer,
            loss=loss,
            evaluation_loss=nn.cross_entropy,
            metrics=nn.METRICS,
            strategy=self.strategy,
            restore_best_weights=config.restore_best_weights,
            log_every=config.log_every,
            log_at=self._called_after(),
            shards=own_shards(config, self.strategy.num_replicas_in_sync),
            gather=self.workers.gather,
        )
        trainer.seconds["trace"] += time.perf_counter() - clock
        return trainer

    def _called_after(self) -> set[int]:
        """The steps after which to profile or to save, besides those to log."""
        profiled = profiling.called_after(as_steps(self.config.profile_steps))
        every = self.config.save_every
        return {*profiled, *(range(every, self.steps, every) if every else ())}

    def training_batches(self, trainer: Trainer) -> tf.data.Dataset:
        """Returns the batches from the trainer's step to the end, for all replicas."""
        clock = time.perf_counter()
        config = self.config
        images, labels, indices = self.splits["train"]
        movement = {
            "none": nn.Augmentation(),
            "shift": nn.Augmentation(config.augment_shift, whole_pixels=True),
            "affine": nn.Augmentation(
                config.augment_shift, config.augment_rotation, config.augment_zoom,
                config.augment_shear,
            ),
        }[config.augment]  # fmt: skip
        augmentation = dataclasses.replace(
            movement,
            fraction=config.augment_fraction,
            flip=config.flip,
            color_jitter=config.color_jitter,
            cutout=config.cutout,
        )

        def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
            batches = dataloader.training_batches(
                images,
                labels,
                batch_size=config.batch_size,
                seed=config.seed,
                indices=indices,
                augmentation=augmentation,
                mixup_alpha=config.mixup,
                num_classes=len(self.dataset.labels),
                start=trainer.step,
                stop=self.steps,
                replicas=context.num_replicas_in_sync,
                pipeline=context.input_pipeline_id,
                pipelines=context.num_input_pipelines,
                ahead=hardware.batches_ahead(),
            )
            # Of a finite data set, workers would ask each other in each step whether
            # it has ended.
            return batches if self.workers.count == 1 else batches.repeat()

        batches = self.strategy.distribute_datasets_from_function(pipeline)
        trainer.seconds["trace"] += time.perf_counter() - clock
        return batches

    def evaluation_batches(self, split: str) -> tf.data.Dataset | None:
        """Returns every sample of a split once; None if it has none.

        Each of several workers gets its share of them.
        """
        images, labels, indices = self.splits[split]
        if not len(indices):
            return None
        if self.workers.count > 1:
            return dataloader.evaluation_batches(
                images, labels, indices=self._share(indices)
            )
        whole = len(indices) == len(labels)  # needs no copy
        batches = dataloader.evaluation_batches(
            images, labels, indices=None if whole else indices
        )
        return self.strategy.experimental_distribute_dataset(batches)

    def _share(self, indices: np.ndarray) -> np.ndarray:
        """This worker's share of the samples to evaluate, of all classes alike."""
        return indices[self.workers.index :: self.workers.count]

    def find_mistakes(
        self, split: str, predictions: Predictions | None
    ) -> Mistakes | None:
        """The mistakes in predictions for a split, or for this worker's share of it."""
        if predictions is None:
            return None
        images, labels, indices = self.splits[split]
        names = self.dataset.labels
        return find_mistakes(
            predictions, images, labels, self._share(indices), names, tensorboard.WORST
        )


def own_shards(config: Config, replicas: int) -> int:
    """The shards of one replica, so that all together have those of the settings."""
    return max(1, int(config.shards) // replicas)


def _split(config: Config, dataset: data.Dataset) -> dict[str, Split]:
    """Splits the data into train, validation and test."""
    splits = {
        name: (*dataset.split(name), np.arange(len(dataset.split(name)[1])))
        for name in dataset.splits
    }
    if "validation" not in splits:
        images, labels, _ = splits["train"]
        train, validation = data.stratified_split(
            labels, config.validation_split, config.seed
        )
        if config.validation_split and not len(validation):
            raise UserError(
                f"--validation_split={config.validation_split} leaves no validation "
                f"image of the {len(labels)} training images, because each class keeps "
                "one for training; set it to 0 or add images"
            )
        splits["train"] = (images, labels, train)
        splits["validation"] = (images, labels, validation)
    return {name: splits[name] for name in ("train", "validation", "test")}


def _check_validation(config: Config, images: int) -> None:
    """Rejects settings that look at validation images where there are none."""
    if not images and (config.early_stopping or config.restore_best_weights):
        raise UserError(
            "--early_stopping and --restore_best_weights need validation images; set "
            f"--validation_split above 0 (got {config.validation_split})"
        )


def _check_profile(config: Config, steps: int) -> None:
    """Rejects a profile of steps that the run does not have."""
    profiled = as_steps(config.profile_steps)
    if profiled and profiled[1] > steps:
        raise UserError(
            f"--profile_steps={config.profile_steps} must end by step {steps}, the "
            "last of the run; choose earlier steps or raise --epochs"
        )


def _check_batch_size(config: Config, train: int, replicas: int) -> None:
    """Rejects a batch that cannot be divided, or has more than the training images."""
    parts = replicas * own_shards(config, replicas)
    if config.batch_size % parts:
        raise UserError(
            f"--batch_size must be a multiple of {parts}, the number of its parts on "
            f"{replicas} replicas with --shards={config.shards} (got "
            f"{config.batch_size})"
        )
    if config.batch_size > train:
        raise UserError(
            f"--batch_size must not exceed the {train} training images (got "
            f"{config.batch_size})"
        )


def _warn_of_missing_classes(splits: Mapping[str, Split], names: Sequence[str]) -> None:
    """Warns of classes without any image in a split that has images."""
    for split, (_, labels, indices) in splits.items():
        counts = np.bincount(labels[indices], minlength=len(names))
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        if missing and len(indices):
            shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
            warn(
                f"{len(missing)} of the {len(names)} classes have no {split} image: "
                f"{shown}"
            )
