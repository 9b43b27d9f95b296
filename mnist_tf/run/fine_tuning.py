"""Starts a network from the weights of another model."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras

from mnist_tf import artifact, data
from mnist_tf.config import Config
from mnist_tf.errors import UserError, say, warn


def initialize(
    model: keras.Model, labels: Sequence[str], model_dir: str | os.PathLike
) -> dict[str, Any]:
    """Takes over all weights of a model directory whose names and shapes fit.

    Weights of the output layer, the attribute `logits`, fit only if the labels are the
    same. Tells what was taken.

    Args:
      model: the network to start.
      labels: its labels.
      model_dir: the model to start from.

    Returns:
      What config.json says about it: the directory, the checksum of its weights, and
      the number of weights taken.

    Raises:
      UserError: there is no model in the directory, or nothing of it fits.
    """
    try:
        source = artifact.read(model_dir)
        weights = _by_name(artifact.load_model(model_dir))
    except UserError as error:
        line = str(error).removeprefix("--model_dir ")
        raise UserError(f"--init_from: {line}") from error
    same_labels = tuple(labels) == source.labels
    head = [] if same_labels else [id(weight) for weight in _head(model).weights]
    taken, kernels, new = 0, 0, []
    for name, weight in _by_name(model).items():
        fits = name in weights and weights[name].shape == weight.shape
        if fits and id(weight) not in head:
            weight.assign(weights[name])
            taken += 1
            kernels += len(weight.shape) > 1
        else:
            new.append(name)
    if not kernels:  # the bias of the output layer fits any network
        raise UserError(
            f"--init_from={model_dir}: no weight of that {source.config.model!r} "
            "network fits this one; use the same --model and its settings"
        )
    rest = f"; newly initialised: {', '.join(new)}" if new else ""
    say(f"--init_from={model_dir}: loaded {taken} of {taken + len(new)} weights{rest}")
    return {
        "model_dir": str(model_dir),
        "weights_sha256": source.description.get("weights_sha256"),
        "weights_taken": taken,
    }


def warn_if_seen(
    model_dir: str | os.PathLike, config: Config, dataset: data.Dataset
) -> None:
    """Warns if the model was trained on images that this run holds out.

    Args:
      model_dir: the model to start from.
      config: the settings of the run.
      dataset: its data set.
    """
    source = artifact.read(model_dir)
    split, used = (
        (each.seed, each.validation_split) for each in (config, source.config)
    )
    same_data = source.description["dataset"].get("sha256") == dataset.sha256
    own_split = "validation" in dataset.splits
    if same_data and not own_split and config.validation_split and split != used:
        warn(
            f"--init_from={model_dir}: that model was trained on images that are for "
            "validation here, so their figures will be too good; use its --seed="
            f"{used[0]} --validation_split={used[1]}"
        )


def freeze_all_but_head(model: keras.Model) -> None:
    """Freezes all layers but the output layer, the attribute `logits`.

    Raises:
      UserError: the network has no such attribute.
    """
    head = _head(model)
    # Not by `model.trainable`, without which Keras lists no weight, the head's neither.
    for layer in model.layers:
        layer.trainable = layer is head
    of_head = {id(weight) for weight in head.weights}
    for weight in model.trainable_weights:
        weight.trainable = id(weight) in of_head


def _head(model: keras.Model) -> keras.layers.Layer:
    head = getattr(model, "logits", None)
    if not isinstance(head, keras.layers.Layer):
        raise UserError(
            f"{type(model).__name__} must have its output layer as the attribute "
            "`logits` for --init_from with other labels and for --train_only=head"
        )
    return head


def _by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """The weights by names that depend on the network only: conv2d/kernel/0 and so on.

    Keras numbers layers through all networks of a process.
    """
    found: dict[str, keras.Variable] = {}
    counts: Counter[str] = Counter()
    for weight in model.weights:
        parts = weight.path.split("/")[-2:]
        name = "/".join(re.sub(r"_\d+$", "", part) for part in parts)
        found[f"{name}/{counts[name]}"] = weight
        counts[name] += 1
    return found
