"""One network, four ways to train it: `python -m benchmarks.peers fit --epochs=15`.

The network and its settings are those of the Keras example "Simple MNIST convnet"
(F. Chollet, keras.io/examples/vision/mnist_convnet): two 3x3 convolutions with 32 and
64 channels, each with ReLU and 2x2 max pooling, dropout of a half, a dense layer;
34,826 parameters; Adam with its defaults, batches of 128, 15 epochs on 54,000 images.

    fit                  Keras's compile and fit, as in the example
    trainer              our Trainer and pipeline, the same layers
    pytorch              PyTorch, tensors in memory, its default memory format
    pytorch_channels     the same with channels last, which its CPU kernels prefer

Prints one JSON object: seconds and test accuracy of each epoch. The clock runs from the
first call that trains, tracing included, and stands still while the test images are
looked at. The validation that the example runs after each epoch is left out everywhere.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mnist_tf import command, datasets, quiet
from mnist_tf.errors import UserError

BATCH_SIZE = 128
TRAINED_ON = 54_000  # as the example's validation_split=0.1 leaves
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "epochs": command.Flag("15", "Epochs to train."),
    "seed": command.Flag("1", "Decides weights and order."),
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
    values = command.with_defaults(
        FLAGS, command.parse(argv, FLAGS, __doc__ or "", lambda given: given)
    )
    if len(values["peer"]) != 1 or values["peer"][0] not in PEERS:
        raise UserError(f"peer: got {values['peer']}; give one of {', '.join(PEERS)}")
    data = datasets.load("mnist", values["data_dir"])
    laps = PEERS[values["peer"][0]](data, int(values["epochs"]), int(values["seed"]))
    json.dump({"seconds": laps.seconds, "accuracy": laps.accuracy}, sys.stdout)


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


def _fit(data: datasets.Dataset, epochs: int, seed: int) -> Laps:
    quiet.import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    images = data.train_images[:TRAINED_ON, ..., np.newaxis].astype("float32") / 255
    labels = keras.utils.to_categorical(data.train_labels[:TRAINED_ON], 10)
    tests = data.test_images[..., np.newaxis].astype("float32") / 255
    model = keras.Sequential([keras.Input((28, 28, 1)), *_layers("softmax")])
    model.compile(
        loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"]
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
    return laps


def _trainer(data: datasets.Dataset, epochs: int, seed: int) -> Laps:
    quiet.import_tensorflow()
    import keras
    import tensorflow as tf

    from mnist_tf import dataloader
    from mnist_tf.losses import cross_entropy
    from mnist_tf.optimizers import build_optimizer
    from mnist_tf.progress import Progress
    from mnist_tf.trainer import Trainer

    keras.utils.set_random_seed(seed)
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
    trainer = Trainer(model=model, optimizer=optimizer, loss=cross_entropy)

    def at_the_end(progress: Progress) -> None:
        if progress.epoch_done:
            laps.lap()

    trainer.fit(batches, epochs=epochs, steps_per_epoch=steps, actions=[at_the_end])
    return laps


def _pytorch(
    data: datasets.Dataset, epochs: int, seed: int, channels_last: bool = False
) -> Laps:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format
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
    loss, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters())

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
    return laps


def _pytorch_channels(data: datasets.Dataset, epochs: int, seed: int) -> Laps:
    return _pytorch(data, epochs, seed, channels_last=True)


PEERS: dict[str, Callable[[datasets.Dataset, int, int], Laps]] = {
    "fit": _fit,
    "trainer": _trainer,
    "pytorch": _pytorch,
    "pytorch_channels": _pytorch_channels,
}

if __name__ == "__main__":
    command.run(main)
