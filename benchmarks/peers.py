"""One network, six ways to train it: `python -m benchmarks.peers fit --epochs=15`.

The network and its settings are those of the Keras example "Simple MNIST convnet"
(F. Chollet, keras.io/examples/vision/mnist_convnet): two 3x3 convolutions with 32 and
64 channels, each with ReLU and 2x2 max pooling, dropout of a half, a dense layer;
34,826 parameters; Adam with its defaults, batches of 128, 15 epochs on 54,000 images.

    fit             Keras's compile and fit, as in the example
    fit_onednn      the same with the kernels that our commands turn on
    fit_tuned       likewise, without XLA and with 50 steps a call
    trainer         our Trainer, pipeline and fused Adam, repeatable operations, each
                    batch in two shards as in our recipes
    pytorch         PyTorch, eager, tensors in memory
    pytorch_tuned   the same with channels last, as its kernels prefer, and fused Adam

Prints one JSON object: seconds and test accuracy of each epoch, images in each, and
parameters. The clock runs from the first call that trains, tracing included, and stands
still while the test images are looked at. The validation that the example runs after
each epoch is left out everywhere. All of it runs on the CPU.
"""

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.host import numbers
from mnist_tf import command, datasets, quiet
from mnist_tf.errors import UserError, unknown_name

BATCH_SIZE = 128
SHARDS = 2
TRAINED_ON = 54_000  # as the example's validation_split=0.1 leaves
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "epochs": command.Flag(15, "Epochs to train."),
    "seed": command.Flag(1, "Decides weights and order."),
    "peer": command.Flag([], "Which one.", many=True),
}


class Laps:
    """Seconds and accuracy of each epoch; the clock stands still in between.

    Args:
      evaluate: measures the accuracy on the test images.
    """

    def __init__(self, evaluate: Callable[[], float]) -> None:
        self.evaluate = evaluate
        self.seconds: list[float] = []
        self.accuracy: list[float] = []
        self.clock = time.perf_counter()

    def lap(self) -> None:
        """Ends an epoch."""
        self.seconds.append(time.perf_counter() - self.clock)
        self.accuracy.append(self.evaluate())
        self.clock = time.perf_counter()


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and prints what it took."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    data = datasets.load("mnist", values["data_dir"])
    train = PEERS[values["peer"][0]]
    laps, parameters = train(data, values["epochs"], values["seed"])
    found = {
        "seconds": laps.seconds,
        "accuracy": laps.accuracy,
        "images": TRAINED_ON,
        "parameters": parameters,
    }
    json.dump(found, sys.stdout)


def _checked(values: command.Values) -> command.Values:
    given = numbers(command.with_defaults(FLAGS, values), "epochs", "seed")
    if len(given["peer"]) != 1:
        raise UserError(f"peer: got {given['peer']}; give one of {', '.join(PEERS)}")
    if given["peer"][0] not in PEERS:
        raise UserError(unknown_name("peer", given["peer"][0], PEERS))
    return given


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


Trained = tuple[Laps, int]  # and the number of parameters


def _published(data: datasets.Dataset, epochs: int, seed: int) -> Trained:
    # As TensorFlow chooses for itself.
    os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)
    return _fit(data, epochs, seed)


def _fit(data: datasets.Dataset, epochs: int, seed: int, **settings: Any) -> Trained:
    quiet.import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    images = data.train_images[:TRAINED_ON, ..., np.newaxis].astype("float32") / 255
    labels = keras.utils.to_categorical(data.train_labels[:TRAINED_ON], 10)
    tests = data.test_images[..., np.newaxis].astype("float32") / 255
    model = keras.Sequential([keras.Input((28, 28, 1)), *_layers("softmax")])
    model.compile(
        loss="categorical_crossentropy",
        optimizer="adam",
        metrics=["accuracy"],
        **settings,
    )

    def accuracy() -> float:
        answers = model.predict_on_batch(tests).argmax(axis=1)
        return float((answers == data.test_labels).mean())

    laps = Laps(accuracy)
    at_the_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: laps.lap())
    model.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[at_the_end],
    )
    return laps, model.count_params()


def _trainer(data: datasets.Dataset, epochs: int, seed: int) -> Trained:
    quiet.import_tensorflow()
    import keras
    import tensorflow as tf

    from mnist_tf import dataloader, machine
    from mnist_tf.losses import cross_entropy
    from mnist_tf.optimizers import build_optimizer
    from mnist_tf.progress import Progress
    from mnist_tf.trainer import Trainer

    keras.utils.set_random_seed(seed)
    machine.share_cores(SHARDS)
    tf.config.experimental.enable_op_determinism()
    scale = keras.layers.Rescaling(1 / 255)
    model = keras.Sequential([keras.Input((28, 28, 1)), scale, *_layers(None)])
    # Keras's defaults.
    optimizer = build_optimizer("adam", 0.001, momentum=0.9, beta_2=0.999)
    steps = -(-TRAINED_ON // BATCH_SIZE)
    tests = dataloader.evaluation_batches(data.test_images, data.test_labels)
    laps = Laps(lambda: trainer.evaluate(tests)["accuracy"])
    batches = dataloader.training_batches(
        data.train_images[:TRAINED_ON],
        data.train_labels[:TRAINED_ON],
        batch_size=BATCH_SIZE,
        seed=seed,
        stop=epochs * steps,
    )
    trainer = Trainer(
        model=model, optimizer=optimizer, loss=cross_entropy, shards=SHARDS
    )

    def at_the_end(progress: Progress) -> None:
        if progress.epoch_done:
            laps.lap()

    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps, actions=[at_the_end])
    return laps, model.count_params()


def _pytorch(
    data: datasets.Dataset, epochs: int, seed: int, tuned: bool = False
) -> Trained:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(os.cpu_count() or 1)
    layout = torch.channels_last if tuned else torch.contiguous_format
    network: Any = nn.Sequential(  # its stub does not know memory_format
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

    images, tests = tensor(data.train_images[:TRAINED_ON]), tensor(data.test_images)
    labels = torch.tensor(data.train_labels[:TRAINED_ON])
    loss = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), fused=tuned)

    def accuracy() -> float:
        model.eval()
        with torch.no_grad():
            answers = model(tests).argmax(1).numpy()
        model.train()
        return float((answers == data.test_labels).mean())

    laps = Laps(accuracy)
    for _ in range(epochs):
        for chosen in torch.randperm(TRAINED_ON).split(BATCH_SIZE):
            optimizer.zero_grad()
            loss(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        laps.lap()
    return laps, sum(part.numel() for part in model.parameters())


PEERS: dict[str, Callable[[datasets.Dataset, int, int], Trained]] = {
    "fit": _published,
    "fit_onednn": _fit,
    "fit_tuned": functools.partial(_fit, jit_compile=False, steps_per_execution=50),
    "trainer": _trainer,
    "pytorch": _pytorch,
    "pytorch_tuned": functools.partial(_pytorch, tuned=True),
}

if __name__ == "__main__":
    command.run(main)
