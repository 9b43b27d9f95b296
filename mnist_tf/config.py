"""The settings of a run, each declared once.

A setting's type, default, help text, group and limits stand in one place, the class
`Config`. The flags of the train command, the checks and the JSON in the model directory
follow from it: to add a setting, add a field.
"""

import dataclasses
import numbers
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mnist_tf.errors import UserError, unknown_name

Limits = tuple[str, Callable[[Any], bool]]  # in words, and as a test
Switch = bool | str  # True, False or "auto"
Count = int | str  # an integer or "auto"


def setting(
    default: Any,
    help: str,
    group: str,
    *,
    limits: Limits | None = None,
    choices: Collection[str] = (),
) -> Any:
    """Declares a field of `Config`.

    Args:
      default: its default.
      help: what it does, for `--help`.
      group: the heading in `--help`.
      limits: what a value must be, in words and as a test.
      choices: the allowed strings; any if empty.
    """
    about = {"help": help, "group": group, "limits": limits, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


def between(low: float, high: float) -> Limits:
    """Limits of a number, both included."""
    return f"between {low} and {high}", lambda value: low <= value <= high


POSITIVE = ("greater than 0", lambda value: value > 0)
AT_LEAST_0 = ("at least 0", lambda value: value >= 0)
AT_LEAST_1 = ("at least 1", lambda value: value >= 1)
FRACTION = ("at least 0 and less than 1", lambda value: 0 <= value < 1)
SHARE = ("greater than 0 and at most 1", lambda value: 0 < value <= 1)
FILTERS = (
    "one to six integers between 1 and 4096",
    lambda value: 1 <= len(value) <= 6 and min(value) >= 1 and max(value) <= 4096,
)
STEPS = (
    "first:last, two steps of which the first is at least 2, such as 100:110",
    lambda value: value == "" or as_steps(value) is not None,
)
PATH = ("a path", lambda value: value != "")

DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "Run"


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one training run; the fields are the flags of the train command.

    Raises:
      UserError: values have the wrong type or are outside their limits; the message
        lists all of them.
    """

    # fmt: off
    dataset: str = setting(
        "auto", "Data set to train on: auto, mnist, fashion_mnist, cifar10, sample or "
        "custom. auto and custom read any data in --data_dir. Without it, auto looks "
        "for MNIST in your cache directory (~/.cache/mnist_tf on Linux) and on the "
        "network, and falls back, with a warning, to the 5,000 digits that ship with "
        "the project.", DATA)
    data_dir: str = setting(
        "", "Directory with the data: image files as train/<label>/*, test/<label>/* "
        "and, if you like, validation/<label>/*; or as <label>/*; or with labels.csv "
        "(file,label[,split]); an npz file with x_train, y_train, x_test and y_test; "
        "or the four IDX files, gzipped or not.", DATA)
    validation_split: float = setting(
        0.1, "Fraction of the training images of each class to hold out for "
        "validation, unless the data have a validation split. 0 trains on all of them.",
        DATA, limits=FRACTION)
    preprocess: str = setting(
        "auto", "How a picture becomes the network's input: digits (find the digit and "
        "draw it as MNIST's are drawn), photo (resize it), or auto, which is digits if "
        "the labels are digits.", DATA, choices=("auto", "digits", "photo"))
    image_size: int = setting(
        0, "photo: Height and width of the input in pixels. 0 takes the size of the "
        "images, which must then be the same for all.", DATA, limits=between(0, 2048))
    color: str = setting(
        "auto", "photo: rgb, grayscale, or auto, which is rgb if there are images in "
        "colour.", DATA, choices=("auto", "rgb", "grayscale"))
    resize: str = setting(
        "crop", "photo: What to do with an image that is not square: crop (keep its "
        "middle), pad (keep all of it between black bars) or stretch.",
        DATA, choices=("crop", "pad", "stretch"))
    strict: bool = setting(
        False, "Stop at an image file that is damaged. By default it is reported and "
        "skipped.", DATA)
    cache_dir: str = setting(
        "", "Directory to cache the pixels of image files in, which are decoded once. "
        "By default in your cache directory (~/.cache/mnist_tf on Linux).", DATA)
    augment: str = setting(
        "none", "Random geometric changes of the training images: none, shift "
        "(by whole pixels) or affine (shift, rotation, zoom and shear).",
        DATA, choices=("none", "shift", "affine"))
    augment_fraction: float = setting(
        1.0, "Fraction of the images of a batch that --augment changes. The others "
        "stay as they are, which saves time.", DATA, limits=SHARE)
    augment_shift: float = setting(
        2.0, "Largest shift in pixels.", DATA, limits=between(0, 14))
    augment_rotation: float = setting(
        10.0, "Largest rotation in degrees.", DATA, limits=between(0, 45))
    augment_zoom: float = setting(
        0.1, "Largest relative change of size.", DATA, limits=between(0, 0.5))
    augment_shear: float = setting(
        5.0, "Largest shear in degrees.", DATA, limits=between(0, 45))
    flip: bool = setting(
        False, "Mirror each training image left to right in every other epoch.", DATA)
    color_jitter: float = setting(
        0.0, "Change brightness, contrast and saturation of the training images at "
        "random, by this fraction at most.", DATA, limits=FRACTION)
    cutout: int = setting(
        0, "Blacken a square with sides of this many pixels at a random place of each "
        "training image.", DATA, limits=between(0, 2048))
    mixup: float = setting(
        0.0, "Mix each training image, and its label, with another. The weights have a "
        "beta distribution with this parameter. 0 does not mix.",
        DATA, limits=between(0, 10))

    model: str = setting(
        "cnn", "Network to train: cnn (convolutional), resnet (residual, for photos), "
        "fc (fully connected) or rnn (bidirectional LSTMs over the rows of the image).",
        MODEL)
    filters: tuple[int, ...] = setting(
        (16, 32, 64), "cnn, resnet: number of filters in each stage.",
        MODEL, limits=FILTERS)
    convs_per_stage: int = setting(
        1, "cnn: convolutions in each stage after the first.",
        MODEL, limits=between(1, 100))
    num_layers: int = setting(
        3, "fc: dense layers, the output layer included. rnn: stacked LSTMs.",
        MODEL, limits=between(1, 100))
    units: int = setting(
        64, "rnn: units per LSTM and direction.", MODEL, limits=between(1, 4096))
    normalization: str = setting(
        "batch", "fc: normalisation of the hidden layers, batch or none.",
        MODEL, choices=("batch", "none"))
    dropout: float = setting(
        0.0, "Dropout rate. Regularises networks that overfit.", MODEL, limits=FRACTION)
    precision: str = setting(
        "float32", "Precision of the computation during training: float32, bfloat16 "
        "(mixed precision with float32 weights), or auto, which is bfloat16 on x86 "
        "CPUs with avx512_bf16 or amx_bf16 and float32 anywhere else.",
        MODEL, choices=("float32", "bfloat16", "auto"))
    test_shift: int = setting(
        0, "Test-time augmentation: the exported model averages its predictions over "
        "the image and four copies shifted by this many pixels. More accurate, at five "
        "times the cost of a prediction. 0 turns it off.",
        MODEL, limits=between(0, 3))
    test_flip: bool = setting(
        False, "Test-time augmentation: average over the mirror image as well, at "
        "twice the cost.", MODEL)
    init_from: str = setting(
        "", "Model directory to initialise the weights from: all whose names and "
        "shapes match. The output layer is new if the labels differ.", MODEL)
    train_only: str = setting(
        "all", "What to train: all layers, or only the head (the output layer).",
        MODEL, choices=("all", "head"))

    batch_size: int = setting(128, "Images per step.", TRAINING, limits=AT_LEAST_1)
    shards: int | str = setting(
        1, "Split each batch into this many equal shards that run in parallel, each on "
        "its share of the cores. Faster where operations are small. Batch "
        "normalisation sees one shard at a time. auto is one per core with at least 64 "
        "images in each, and 1 on a GPU and for several workers; a run that is resumed "
        "keeps its number.", TRAINING, limits=between(1, 64))
    epochs: int = setting(4, "Number of epochs.", TRAINING, limits=AT_LEAST_1)
    min_steps_per_epoch: int = setting(
        0, "Repeat small data sets until an epoch has this many steps. 0 goes through "
        "the data once.", TRAINING, limits=AT_LEAST_0)
    max_steps_per_epoch: int = setting(
        0, "End an epoch after this many steps; the next one continues with the "
        "remaining images. 0 sets no limit.", TRAINING, limits=AT_LEAST_0)
    optimizer: str = setting(
        "adamw", "Optimizer: adam, adamw, sgd (with Nesterov momentum) or muon "
        "(orthogonal updates for convolutions, adamw for other weights).",
        TRAINING, choices=("adam", "adamw", "sgd", "muon"))
    learning_rate: float = setting(
        0.01, "Peak learning rate. muon: the relative change of a kernel per step.",
        TRAINING, limits=POSITIVE)
    schedule: str = setting(
        "linear", "Learning-rate schedule after the warm-up: constant, or linear or "
        "cosine decay to 0.", TRAINING, choices=("constant", "linear", "cosine"))
    warmup: float = setting(
        0.25, "Fraction of the run during which the learning rate rises linearly from "
        "0.", TRAINING, limits=FRACTION)
    momentum: float = setting(
        0.9, "sgd, muon: momentum. adam, adamw: beta_1.", TRAINING, limits=FRACTION)
    beta_2: float = setting(
        0.99, "adam, adamw, muon: decay rate of the second-moment estimates.",
        TRAINING, limits=FRACTION)
    weight_decay: float = setting(
        0.004, "adamw, sgd, muon: decoupled weight decay of the kernels. muon "
        "keeps the norm of convolutions constant instead.", TRAINING, limits=AT_LEAST_0)
    global_clipnorm: float = setting(
        0.0, "Clip the gradients to this global norm. 0 does not clip.",
        TRAINING, limits=AT_LEAST_0)
    label_smoothing: float = setting(
        0.0, "Fraction of each one-hot target to spread evenly over all classes.",
        TRAINING, limits=FRACTION)
    class_weights: str = setting(
        "none", "Class weights in the loss: none, or balanced, which gives each class "
        "the same share of the loss however many images it has.",
        TRAINING, choices=("none", "balanced"))
    ema_decay: float = setting(
        0.0, "Evaluate and export an exponential moving average of the weights with "
        "this decay. 0 uses the weights themselves.", TRAINING, limits=FRACTION)
    sync_batch_norm: bool = setting(
        False, "With several replicas, batch normalisation sees the images of all of "
        "them, not only those of each replica.", TRAINING)
    early_stopping: int = setting(
        0, "Stop after this many epochs without improvement of the validation "
        "accuracy or, at equal accuracy, loss. 0 never stops early.",
        TRAINING, limits=AT_LEAST_0)
    restore_best_weights: bool = setting(
        False, "End with the weights of the epoch with the best validation accuracy "
        "instead of the last ones.", TRAINING)
    evaluate_test: bool = setting(
        True, "Evaluate the trained model on the test images, too.", TRAINING)
    calibrate: bool = setting(
        True, "Divide the logits of the exported model by a temperature, so that its "
        "probabilities match how often it is correct. Fitted to the validation images "
        "if there are at least 100; the predicted labels stay the same.", TRAINING)
    seed: int = setting(
        1, "Seed of all randomness. The same seed gives the same weights, bit for bit, "
        "on the same machine with the same number of cores.", TRAINING,
        limits=("between 0 and 2**31 - 1", lambda value: 0 <= value < 2**31))

    model_dir: str = setting(
        "out", "Directory to write the trained model to.", RUN, limits=PATH)
    publish: str = setting(
        "", "Directory to publish the trained model in as a new version, laid out for "
        "TensorFlow Serving.", RUN)
    keep: int = setting(
        0, "publish: How many of the newest versions to keep. 0 keeps all.",
        RUN, limits=AT_LEAST_0)
    log_dir: str = setting(
        "logs", "Directory for TensorBoard; each run gets its own subdirectory.",
        RUN, limits=PATH)
    resume: bool | str = setting(
        False, "Resume the run in --model_dir from its latest checkpoint. auto resumes "
        "if there is one and starts a new run otherwise.", RUN)
    overwrite: bool = setting(
        False, "Replace the model in --model_dir.", RUN)
    save_every: int = setting(
        0, "Save a checkpoint every this many steps, in addition to the end of each "
        "epoch. 0 turns this off.", RUN, limits=AT_LEAST_0)
    save_every_seconds: float = setting(
        0.0, "Save a checkpoint at least every this many seconds. 0 turns this off.",
        RUN, limits=AT_LEAST_0)
    on_nonfinite: str = setting(
        "stop", "When the loss or a weight is NaN or infinite: stop, or rollback, "
        "which returns to the latest checkpoint with half the learning rate, up to "
        "three times.",
        RUN, choices=("stop", "rollback"))
    log_every: int = setting(
        50, "Run the callbacks (progress, TensorBoard, checkpoints) every this many "
        "steps.", RUN, limits=AT_LEAST_1)
    profile_steps: str = setting(
        "", "Profile these steps, such as 100:110, for TensorBoard's Profile tab. "
        "Empty profiles none.", RUN, limits=STEPS)
    report: bool = setting(
        True, "End the run with report.png in --model_dir: curves, confusion matrix "
        "and worst mistakes. Skipped if matplotlib is not installed.", RUN)
    strategy: str = setting(
        "auto", "How to distribute the training: single (one device), mirrored (all "
        "GPUs of this machine), multi_worker (all machines that TF_CONFIG or Slurm "
        "names), or auto, which picks the last of these that applies.",
        RUN, choices=("auto", "single", "mirrored", "multi_worker"))
    cluster_timeout: float = setting(
        300.0, "multi_worker: Seconds to wait for the other workers at the start.",
        RUN, limits=POSITIVE)
    intra_op_threads: int = setting(
        0, "Threads within one operation. 0 lets TensorFlow decide, or divides the "
        "cores among the --shards.", RUN, limits=between(0, 1024))
    inter_op_threads: int = setting(
        0, "Operations that run in parallel. 0 lets TensorFlow decide, or runs one per "
        "shard.", RUN, limits=between(0, 1024))
    # fmt: on

    def __post_init__(self) -> None:
        for name in SETTINGS:
            object.__setattr__(self, name, _plain(getattr(self, name)))
        problems = _problems(self)
        if problems:
            raise UserError("; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON types: lists in place of tuples."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def to_flags(self) -> dict[str, str]:
        """Returns the settings that differ from their defaults, as text for flags."""
        return {
            name: as_text(value)
            for name, value in vars(self).items()
            if value != SETTINGS[name].default
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Inverts `to_dict`; missing settings get their defaults.

        Raises:
          UserError: settings are unknown or their values are invalid.
        """
        unknown = [key for key in values if key not in SETTINGS]
        if unknown:
            problems = [unknown_name("setting", key, SETTINGS) for key in unknown]
            raise UserError("; ".join(problems))
        return cls(**values)


def as_text(value: Any) -> str:
    """Returns the value of a setting as it is written on the command line.

    >>> as_text((16, 32)), as_text(True), as_text(0.5)
    ('16,32', 'true', '0.5')
    """
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_steps(text: str) -> tuple[int, int] | None:
    """Returns the first and the last step of a range; None if it is none.

    The first step of a run is part of no range: it prepares what the others reuse.

    >>> as_steps("100:110"), as_steps("1:3"), as_steps("5")
    ((100, 110), None, None)
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        return None
    return (int(first), int(last)) if 2 <= int(first) <= int(last) else None


SETTINGS: dict[str, dataclasses.Field] = {f.name: f for f in dataclasses.fields(Config)}

_TYPES: dict[Any, str] = {
    bool: "true or false",
    Switch: "true, false or auto",
    Count: "an integer or auto",
    int: "an integer",
    float: "a finite number",
    str: "a string",
    tuple[int, ...]: "a comma-separated list of integers",
}


def _plain(value: Any) -> Any:
    """Returns a list as a tuple, a path as text and a NumPy number as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    is_numpy = isinstance(value, numbers.Number) and hasattr(value, "item")
    return value.item() if is_numpy else value


def _has_type(field: dataclasses.Field, value: Any) -> bool:
    if field.type is float:
        # Compared, because an integer may be too large to become a float.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if field.type == Switch:
        return type(value) is bool or value == "auto"
    if field.type == Count:
        return type(value) is int or value == "auto"
    if field.type in (bool, int, str):
        return type(value) is field.type
    return type(value) is tuple and all(type(item) is int for item in value)


def _problems(config: Config) -> list[str]:
    problems = []
    for name, field in SETTINGS.items():
        value, about = getattr(config, name), field.metadata
        shown = repr(value)
        if type(value) is tuple:
            shown = ",".join(map(repr, value)) or "nothing"
        if not _has_type(field, value):
            problems.append(f"--{name} must be {_TYPES[field.type]} (got {shown})")
        elif about["choices"] and value not in about["choices"]:
            problems.append(unknown_name(f"--{name}", value, about["choices"]))
        elif about["limits"] and value != "auto" and not about["limits"][1](value):
            problems.append(f"--{name} must be {about['limits'][0]} (got {shown})")
        elif type(value) is int and value >= 2**31:
            problems.append(f"--{name} must be less than 2**31 (got {value!r})")
    return problems or _conflicts(config)


def _conflicts(config: Config) -> list[str]:
    problems = []
    if config.resume and config.overwrite:
        problems.append("--resume and --overwrite exclude each other; use one of them")
    fewest, most = config.min_steps_per_epoch, config.max_steps_per_epoch
    if most and fewest > most:
        problems.append(
            "--min_steps_per_epoch must not exceed --max_steps_per_epoch (got "
            f"{fewest} and {most})"
        )
    return problems
