"""Trains one network in six ways: `python -m benchmarks.peers fit --epochs=15`.

The network and its settings are those of the Keras example "Simple MNIST convnet"
(F. Chollet, keras.io/examples/vision/mnist_convnet): two 3x3 convolutions with 32 and
64 filters, each with ReLU and 2x2 max pooling, dropout of 0.5, a dense layer; 34,826
parameters; Adam with its defaults, batches of 128, 15 epochs on 54,000 images.

    fit             Keras's `compile` and `fit`, as in the example
    fit_onednn      the same with oneDNN, which our commands turn on
    fit_tuned       fit_onednn without XLA and with 50 steps per call
    trainer         our Trainer, pipeline and fused Adam, with deterministic operations
                    and each batch in two shards, as in our recipes
    pytorch         PyTorch, eager, with the data in tensors
    pytorch_tuned   the same with fused Adam and channels last, which its kernels prefer

Prints a JSON object: seconds and test accuracy of each epoch, images per epoch, and the
number of parameters. The time includes tracing and excludes the evaluation on the test
images. Unlike the example, none validates after each epoch. All run on the CPU.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import flags

from mnist_tf import data
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.data import Dataset
from mnist_tf.errors import UserError, native_output_hidden, unknown_name

BATCH_SIZE = 128
SHARDS = 2
TRAINED_ON = 54_000  # images, as the example's validation_split=0.1 leaves


class EpochTimer:
    """Seconds and accuracy of each epoch; the evaluation is not timed.

    Args:
      evaluate: returns the accuracy on the test images.
    """

    def __init__(self, evaluate: Callable[[], float]) -> None:
        self.evaluate = evaluate
        self.seconds: list[float] = []
        self.accuracy: list[float] = []
        self.clock = time.perf_counter()

    def end_epoch(self) -> None:
        """Stops the time, evaluates and starts the time of the next epoch."""
        self.seconds.append(time.perf_counter() - self.clock)
        self.accuracy.append(self.evaluate())
        self.clock = time.perf_counter()


def main(argv: Sequence[str]) -> None:
    """Trains with one peer and prints the results."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked, arguments="peer")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    dataset = data.load("mnist", values["data_dir"])
    train = PEERS[values["peer"][0]]
    timer, parameters = train(dataset, values["epochs"], values["seed"])
    found = {
        "seconds": timer.seconds,
        "accuracy": timer.accuracy,
        "images": TRAINED_ON,
        "parameters": parameters,
    }
    json.dump(found, sys.stdout)


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmark"}
    flags.DEFINE_multi_string(
        "peer", [], "Peer to train with; may be given as an argument.", **mine
    )
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_integer("epochs", 15, "Number of epochs.", lower_bound=1, **mine)
    flags.DEFINE_integer(
        "seed", 1, "Seed of the weights and the order of images.", lower_bound=0, **mine
    )


def _checked(values: parsing.Values) -> parsing.Values:
    if len(values["peer"]) != 1:
        given = ", ".join(values["peer"]) or "none"
        raise UserError(f"give one peer of {', '.join(PEERS)} (got {given})")
    if values["peer"][0] not in PEERS:
        raise UserError(unknown_name("the peer", values["peer"][0], PEERS))
    return values


def _layers(activation: str | None) -> list:
    import keras

    return [
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, activation=activation),
    ]


Trained = tuple[EpochTimer, int]  # and the number of parameters


def _published(dataset: Dataset, epochs: int, seed: int) -> Trained:
    # As TensorFlow decides.
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    return _fit(dataset, epochs, seed)


def _fit(dataset: Dataset, epochs: int, seed: int, **settings: Any) -> Trained:
    with native_output_hidden():
        import keras

    keras.utils.set_random_seed(seed)
    images = dataset.train_images[:TRAINED_ON, ..., np.newaxis].astype("float32") / 255
    labels = keras.utils.to_categorical(dataset.train_labels[:TRAINED_ON], 10)
    tests = dataset.test_images[..., np.newaxis].astype("float32") / 255
    model = keras.Sequential([keras.Input((28, 28, 1)), *_layers("softmax")])
    model.compile(
        loss="categorical_crossentropy",
        optimizer="adam",
        metrics=["accuracy"],
        **settings,
    )

    def accuracy() -> float:
        predictions = model.predict_on_batch(tests).argmax(axis=1)
        return float((predictions == dataset.test_labels).mean())

    timer = EpochTimer(accuracy)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: timer.end_epoch())
    model.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[callback],
    )
    return timer, model.count_params()


def _trainer(dataset: Dataset, epochs: int, seed: int) -> Trained:
    with native_output_hidden():
        import keras
        import tensorflow as tf

    from mnist_tf import dataloader, nn
    from mnist_tf.run import hardware
    from mnist_tf.trainer import Progress, Trainer

    keras.utils.set_random_seed(seed)
    hardware.divide_cores(SHARDS)
    tf.config.experimental.enable_op_determinism()
    scale = keras.layers.Rescaling(1 / 255)
    model = keras.Sequential([keras.Input((28, 28, 1)), scale, *_layers(None)])
    # Keras's defaults.
    optimizer = nn.build_optimizer("adam", 0.001, momentum=0.9, beta_2=0.999)
    steps = -(-TRAINED_ON // BATCH_SIZE)
    tests = dataloader.evaluation_batches(dataset.test_images, dataset.test_labels)
    timer = EpochTimer(lambda: trainer.evaluate(tests)["accuracy"])
    batches = dataloader.training_batches(
        dataset.train_images[:TRAINED_ON],
        dataset.train_labels[:TRAINED_ON],
        batch_size=BATCH_SIZE,
        seed=seed,
        stop=epochs * steps,
    )
    trainer = Trainer(
        model=model, optimizer=optimizer, loss=nn.cross_entropy, shards=SHARDS
    )

    def callback(progress: Progress) -> None:
        if progress.epoch_done:
            timer.end_epoch()

    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps, callbacks=[callback])
    return timer, model.count_params()


def _pytorch(dataset: Dataset, epochs: int, seed: int, tuned: bool = False) -> Trained:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(os.cpu_count() or 1)
    layout = torch.channels_last if tuned else torch.contiguous_format
    network: Any = nn.Sequential(  # its stubs lack memory_format
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(1600, 10),
    )
    model = network.to(memory_format=layout)

    def tensor(images: np.ndarray) -> Any:
        scaled = torch.tensor(images.astype("float32") / 255)
        return scaled[:, None].to(memory_format=layout)

    images = tensor(dataset.train_images[:TRAINED_ON])
    tests = tensor(dataset.test_images)
    labels = torch.tensor(dataset.train_labels[:TRAINED_ON])
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), fused=tuned)

    def accuracy() -> float:
        model.eval()
        with torch.no_grad():
            predictions = model(tests).argmax(1).numpy()
        model.train()
        return float((predictions == dataset.test_labels).mean())

    timer = EpochTimer(accuracy)
    for _ in range(epochs):
        for indices in torch.randperm(TRAINED_ON).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(model(images[indices]), labels[indices]).backward()
            optimizer.step()
        timer.end_epoch()
    return timer, sum(part.numel() for part in model.parameters())


PEERS: dict[str, Callable[[Dataset, int, int], Trained]] = {
    "fit": _published,
    "fit_onednn": _fit,
    "fit_tuned": functools.partial(_fit, jit_compile=False, steps_per_execution=50),
    "trainer": _trainer,
    "pytorch": _pytorch,
    "pytorch_tuned": functools.partial(_pytorch, tuned=True),
}

if __name__ == "__main__":
    run(main)
