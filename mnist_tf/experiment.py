"""One training run, from settings to a model directory: wires the parts together.

The only file that unpacks a `Config`; every part takes values and objects.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from mnist_tf.config import Config, as_steps
from mnist_tf.errors import Interrupted, UserError, native_output_hidden, say, warn

with native_output_hidden():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()

from mnist_tf import artifact, data, dataloader, model, nn
from mnist_tf.nn.typicality import Typicality
from mnist_tf.run import (
    callbacks,
    checkpoints,
    cluster,
    directory,
    distribution,
    examination,
    fine_tuning,
    hardware,
    manifest,
    profiling,
    publishing,
    tensorboard,
)
from mnist_tf.run.examination import Split
from mnist_tf.run.signals import GracefulStop
from mnist_tf.stats.mistakes import Answers, Mistakes, find_mistakes
from mnist_tf.trainer import Callback, NotFiniteError, Trainer

_MAX_ROLLBACKS = 3  # what these do not cure is not the learning rate
_ROLLBACK_FACTOR = 0.5  # of the learning rate


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
      model: the trained network as it was evaluated and exported: float32, with
        test-time augmentation and temperature.
      description: the content of config.json.
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
    with cluster.joined(found, config.cluster_timeout) as workers:
        distribution.check_settings(workers, config)
        strategy = strategy or distribution.create(config.strategy, found)
        experiment = functools.partial(
            Experiment, config, strategy, trainer_class, extra_callbacks, workers
        )
        if workers.chief:
            return _run_as_chief(config, experiment)
        # What the chief says is enough.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            return experiment().run()


def _run_as_chief(config: Config, experiment: Callable[[], "Experiment"]) -> Result:
    """Runs as the one process that writes."""
    check = functools.partial(
        directory.check,
        config.model_dir,
        config.log_dir,
        resume=config.resume,
        overwrite=config.overwrite,
        publish=config.publish,
    )
    check()
    prepared = experiment()
    with directory.locked(config.model_dir):
        check()  # again, as the previous owner of the lock left them
        return cast(Result, prepared.run())


def prepare(config: Config, workers: int = 1) -> Config:
    """Sets the thread pools, and resolves what `auto` stands for on this computer.

    `workers` share the work. A run that is resumed keeps its number of shards.
    """
    chosen: dict[str, Any] = {}
    if config.precision == "auto":
        chosen["precision"] = hardware.fastest_precision()
    if config.shards == "auto":
        folder = Path(config.model_dir) / artifact.CHECKPOINTS
        saved = checkpoints.read_record(folder) if config.resume else None
        if saved:
            chosen["shards"] = saved["description"]["config"]["shards"]
        elif workers > 1:
            chosen["shards"] = 1
        else:
            chosen["shards"] = hardware.fastest_shards(config.batch_size)
    config = dataclasses.replace(config, **chosen)
    hardware.share_gpus()
    hardware.set_threads(config.intra_op_threads, config.inter_op_threads)
    hardware.divide_cores(_own_shards(config, workers))
    return config


class Experiment:
    """The parts of a run.

    Args: those of `run`, with a config from `prepare`.

    Attributes:
      dataset: the data set.
      splits: images, labels and indices into both, of train, validation and test.
      steps_per_epoch: steps in each epoch.
      steps: steps in the run.

    Raises:
      UserError: the settings do not fit the data.
    """

    def __init__(
        self,
        config: Config,
        strategy: tf.distribute.Strategy | None = None,
        trainer_class: Callable[..., Trainer] = Trainer,
        extra_callbacks: Sequence[Callback] = (),
        workers: cluster.Workers = cluster.ALONE,
    ) -> None:
        clock = time.perf_counter()
        self.config = config
        self.workers = workers
        self.strategy = strategy or tf.distribute.get_strategy()
        self.trainer_class = trainer_class
        self.extra_callbacks = extra_callbacks
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
        _warn_of_missing_classes(self.splits, self.dataset.labels)
        steps = -(-len(self.splits["train"][2]) // config.batch_size)  # in one pass
        steps = max(steps, config.min_steps_per_epoch)
        self.steps_per_epoch = min(steps, config.max_steps_per_epoch or steps)
        self.steps = config.epochs * self.steps_per_epoch
        _check_profile(config, self.steps)
        self.answers: dict[str, Answers | None] = {}  # of the finished model
        self.seconds = {"data": time.perf_counter() - clock}

    def run(self) -> Result | None:
        """Trains, evaluates and, as the chief, writes the model directory."""
        config = self.config
        model_dir = Path(config.model_dir)
        # A worker without the checkpoint learns from the check that it should have one.
        resume = config.resume if self.workers.chief else config.resume and "auto"
        manager = checkpoints.CheckpointManager(
            model_dir / artifact.CHECKPOINTS, resume, self.workers.chief
        )
        distribution.check_state(
            self.workers, data=self.dataset.sha256, checkpoint=manager.checksum()
        )
        if self.workers.chief and not manager.log_name:
            manager.log_name = directory.new_log_name(config.log_dir, config.model)
        log_dir = Path(config.log_dir) / manager.log_name
        trainer, description = self._train(manager, log_dir)
        trainer.finish()
        finished, fit = self._finish(trainer)
        measured = self._evaluate(trainer, finished) | fit.calibration
        if not self.workers.chief:
            return None
        description |= {"temperature": fit.temperature, "reference": fit.reference}
        metrics = self._export(
            finished, fit.typicality, description, measured, trainer.seconds
        )
        if config.publish:
            version = publishing.publish(
                model_dir, config.publish, config.keep, again=False
            )
            say(f"published {Path(config.publish) / str(version)}")
        tensorboard.log_final(log_dir, metrics)
        split = next(iter(self.answers), "validation")
        found = self._find_mistakes(split, self.answers.get(split))
        return Result(finished, description, metrics, model_dir, log_dir, found)

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
            log_every=min(config.log_every, config.save_every or config.log_every),
            log_at=profiling.called_after(as_steps(config.profile_steps)),
            shards=_own_shards(config, self.strategy.num_replicas_in_sync),
            gather=self.workers.gather,
        )
        trainer.seconds["trace"] += time.perf_counter() - clock
        return trainer

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
            shares = np.array_split(indices, self.workers.count)
            return dataloader.evaluation_batches(
                images, labels, indices=shares[self.workers.index]
            )
        whole = len(indices) == len(labels)  # needs no copy
        batches = dataloader.evaluation_batches(
            images, labels, indices=None if whole else indices
        )
        return self.strategy.experimental_distribute_dataset(batches)

    def _train(
        self, manager: checkpoints.CheckpointManager, log_dir: Path
    ) -> tuple[Trainer, dict[str, Any]]:
        """Trains to the end; returns the trainer and the content of config.json."""
        config, images = self.config, self.dataset.train_images
        init_from = None
        while True:
            rate = config.learning_rate * _ROLLBACK_FACTOR**manager.rollbacks
            trainer = self.build_trainer(rate)
            if manager.latest:
                init_from = manager.latest[1]["description"]["init_from"]
            elif config.init_from:
                init_from = fine_tuning.initialize(
                    trainer.model, self.dataset.labels, config.init_from
                )
            started_from = (init_from or {}).get("weights_sha256") or ""
            distribution.check_state(self.workers, init_from=started_from)
            own_batch = config.batch_size // self.workers.count
            hardware.check_room(trainer, images, own_batch, manager.folder)
            description = manifest.describe(
                config.to_dict(),
                self.dataset,
                self.splits,
                trainer.model,
                hardware.describe(config.precision, self.strategy.num_replicas_in_sync),
                manager.events,
                init_from,
            )
            manager.restore(trainer, description, self.steps)
            save = functools.partial(self._save, manager, trainer, description)
            try:
                self._fit(trainer, save, log_dir)
                return trainer, description
            except NotFiniteError as error:
                if config.on_nonfinite == "stop" or manager.rollbacks == _MAX_ROLLBACKS:
                    raise
                step = manager.latest[1]["step"] if manager.latest else 0
                rate *= _ROLLBACK_FACTOR
                manager.events.append(
                    {"step": step, "event": "rollback", "learning_rate": rate}
                )
                warn(
                    f"{error}. Rolling back to step {step} with --learning_rate="
                    f"{rate:g} ({manager.rollbacks} of {_MAX_ROLLBACKS} rollbacks)"
                )

    def _save(
        self,
        manager: checkpoints.CheckpointManager,
        trainer: Trainer,
        description: Mapping[str, Any],
    ) -> None:
        """Saves a checkpoint; returns when the chief has written it."""
        manager.save(trainer, description)
        self.workers.gather(None)

    def _fit(self, trainer: Trainer, save: Callable[[], None], log_dir: Path) -> None:
        """Trains to the end, or until a signal or early stopping ends the run."""
        config, workers = self.config, self.workers
        if trainer.step >= self.steps:
            say("the run is complete; raise --epochs to train on")
        progress = callbacks.ProgressBar(done=trainer.step)
        logger = tensorboard.TensorBoardLogger(
            log_dir, config.to_dict(), trainer.step, workers.chief
        )

        def find_mistakes() -> Mistakes | None:
            return self._find_mistakes("validation", trainer.validation_answers)

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
                    batches = self.training_batches(trainer)
                    self._log_start(logger, trainer, batches)
                    trainer.fit(
                        batches,
                        epochs=config.epochs,
                        steps_per_epoch=self.steps_per_epoch,
                        validation=self.evaluation_batches("validation"),
                        callbacks=[
                            logger, *self.extra_callbacks, profiler.stop,
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
                where = f"saved at step {trainer.step} of {self.steps}"
                raise Interrupted(signum, f"{where}; continue with --resume")
        if trainer.stopped:
            say(f"stopped early: {trainer.stopped}")

    def _log_start(
        self,
        logger: tensorboard.TensorBoardLogger,
        trainer: Trainer,
        batches: tf.data.Dataset,
    ) -> None:
        """Logs the first training images and the graph of the network, if it starts."""
        if not logger.starts or trainer.step >= self.steps:
            return
        clock = time.perf_counter()
        first, _ = next(iter(batches))  # which the trainer gets, too
        images = self.strategy.experimental_local_results(first)[0]
        logger.training_images(images, trainer.step)
        if self.workers.count == 1:  # else all would have to trace it
            spec = tf.TensorSpec((None, *images.shape[1:]), images.dtype)
            logger.graph("train", trainer.model, spec)
        trainer.seconds["callbacks"] += time.perf_counter() - clock

    def _find_mistakes(self, split: str, answers: Answers | None) -> Mistakes | None:
        """The mistakes in the answers to a split, or to this worker's share of it."""
        if answers is None:
            return None
        images, labels, indices = self.splits[split]
        names = self.dataset.labels
        return find_mistakes(answers, images, labels, indices, names, tensorboard.WORST)

    def _finish(self, trainer: Trainer) -> tuple[keras.Model, examination.Fit]:
        """Returns the model to export, and what is fitted to its answers."""
        finished = self.build_model("float32", finished=True)
        finished.set_weights(trainer.model.get_weights())
        clock = time.perf_counter()
        fit = self._fit_answers(finished) if self.workers.chief else examination.Fit()
        temperature = self.workers.gather(fit.temperature)[0]
        if temperature != 1:
            finished = model.Calibrated(finished, temperature)
        trainer.seconds["evaluate"] += time.perf_counter() - clock
        return finished, fit

    def _fit_answers(self, finished: keras.Model) -> examination.Fit:
        """Fits temperature and typicality to the answers to a sample of the images."""
        config = self.config
        splits = {split: self.splits[split] for split in ("train", "validation")}
        found = examination.examine(finished, splits, _own_shards(config, 1))
        training = found["train"]
        images = self.dataset.train_images[training.rows]
        return examination.fit(
            images, training, found.get("validation"), config.calibrate
        )

    def _evaluate(self, trainer: Trainer, finished: keras.Model) -> dict[str, Any]:
        """The content of metrics.json but its times, of the model that is exported."""
        metrics: dict[str, Any] = {"dataset": self.dataset.name}
        splits = (
            ("validation", "test") if self.config.evaluate_test else ("validation",)
        )
        for split in splits:
            batches = self.evaluation_batches(split)
            if batches is not None:
                metrics[split] = trainer.evaluate(batches, finished)
                self.answers[split] = trainer.answers
        images = trainer.step * self.config.batch_size
        return metrics | {
            "epochs": len(trainer.history),
            "steps": trainer.step,
            "parameters": trainer.model.count_params(),
            "images_per_second": images / trainer.seconds["train"],
            "history": trainer.history,
        }

    def _export(
        self,
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
            return {**metrics, "seconds": {**self.seconds, **seconds, **export}}

        model_dir = self.config.model_dir
        try:
            return artifact.write(
                model_dir,
                model=finished,
                image_shape=self.dataset.preprocessing.image_shape,
                typicality=fitted,
                description=description,
                metrics=timed,
            )
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"--model_dir {model_dir} cannot be written to ({error}); free some "
                "space and continue with --resume"
            ) from error


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


def _own_shards(config: Config, replicas: int) -> int:
    """The shards of one replica, so that all together have those of the settings."""
    return max(1, int(config.shards) // replicas)


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
    parts = replicas * _own_shards(config, replicas)
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
