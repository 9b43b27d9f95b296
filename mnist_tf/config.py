"""Every setting of a run, declared once.

A setting's type, default, help, group and limits stand in one place, the class
`Config`. The flags of train.py, the checks and the JSON in the model directory all
follow from it: to add a setting, add a field.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mnist_tf.errors import UserError, unknown_name

Check = Callable[[Any], bool]


def _setting(
    default: Any,
    help: str,
    group: str,
    *,
    limits: tuple[str, Check] | None = None,
    choices: Collection[str] = (),
) -> Any:
    """Declares a field; `limits` is what a value must be, in words and as a test."""
    about = {"help": help, "group": group, "limits": limits, "choices": choices}
    return dataclasses.field(default=default, metadata=about)


_POSITIVE = ("greater than 0", lambda value: value > 0)
_AT_LEAST_0 = ("at least 0", lambda value: value >= 0)
_AT_LEAST_1 = ("at least 1", lambda value: value >= 1)
_FEW = ("from 1 to 100", lambda value: 1 <= value <= 100)
_SHARE = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_ANGLE = ("from 0 to 45", lambda value: 0 <= value <= 45)
_SEED = ("from 0 to 2**31 - 1", lambda value: 0 <= value < 2**31)
_FILTERS = (
    "one to three whole numbers from 1 to 4096",
    lambda value: 1 <= len(value) <= 3 and min(value) >= 1 and max(value) <= 4096,
)
_THREADS = ("from 0 to 1024", lambda value: 0 <= value <= 1024)
_PATH = ("the name of a folder", lambda value: value != "")

_DATA, _MODEL, _TRAINING, _RUN = "Data", "Model", "Training", "Run"


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of one training run; the fields are the flags of train.py.

    Raises:
      UserError: any value is of the wrong type or outside its limits; the message
        lists all of them.
    """

    # fmt: off
    dataset: str = _setting(
        "auto",
        "Data set to train on: auto, mnist, fashion_mnist, sample or custom. auto is "
        "MNIST from --data_dir, else from the user's cache, else downloaded, else, "
        "with a warning, the 5,000 digits that ship with the project. custom is "
        "whatever --data_dir holds, not compared with any checksum.", _DATA)
    data_dir: str = _setting(
        "",
        "Folder with the data: the four IDX files, gzipped or not, mnist.npz as Keras "
        "has it, or pictures as train/<label>/*.png and test/<label>/*.png.", _DATA)
    validation_split: float = _setting(
        0.1, "Share of each class of the training images that is held out to watch "
        "the run; 0 trains on all.", _DATA, limits=_SHARE)
    augment: str = _setting(
        "none", "How training images are distorted, anew at each step: none, shift "
        "(whole pixels) or affine (shift, rotation, zoom and shear).",
        _DATA, choices=("none", "shift", "affine"))
    augment_shift: float = _setting(
        2.0, "Furthest shift in pixels.", _DATA,
        limits=("from 0 to 14", lambda value: 0 <= value <= 14))
    augment_rotation: float = _setting(
        10.0, "Largest rotation in degrees.", _DATA, limits=_ANGLE)
    augment_zoom: float = _setting(
        0.1, "Largest change of size; 0.1 is from 90 % to 110 %.", _DATA,
        limits=("from 0 to 0.5", lambda value: 0 <= value <= 0.5))
    augment_shear: float = _setting(
        5.0, "Largest shear in degrees.", _DATA, limits=_ANGLE)

    model: str = _setting(
        "cnn", "Network to train: cnn (convolutions), fc (dense layers) or rnn "
        "(bidirectional LSTMs over the rows).", _MODEL)
    filters: tuple[int, ...] = _setting(
        (16, 32, 64), "cnn: channels of each stage, separated by commas.",
        _MODEL, limits=_FILTERS)
    convs_per_stage: int = _setting(
        1, "cnn: convolutions in each stage after the first. More are slower and more "
        "accurate.", _MODEL, limits=_FEW)
    num_layers: int = _setting(
        3, "fc: dense layers, the last one included. rnn: stacked LSTMs.",
        _MODEL, limits=_FEW)
    units: int = _setting(
        64, "rnn: size of the LSTM's state in each direction.", _MODEL,
        limits=("from 1 to 4096", lambda value: 1 <= value <= 4096))
    normalization: str = _setting(
        "batch", "fc: batch normalises each hidden layer; none does not.",
        _MODEL, choices=("batch", "none"))
    dropout: float = _setting(
        0.0, "Share of the features set to 0 at each training step. Helps networks "
        "that learn the training images by heart.", _MODEL, limits=_SHARE)
    precision: str = _setting(
        "float32", "Number format of the computation: float32, bfloat16 (weights stay "
        "float32) or auto, which is bfloat16 on an x86 CPU that computes with it "
        "(avx512_bf16, amx_bf16) and float32 on anything else.",
        _MODEL, choices=("float32", "bfloat16", "auto"))
    test_shift: int = _setting(
        0, "The finished network answers with the mean over the image and its copies "
        "shifted by this many pixels in the eight directions: more accurate, at nine "
        "times the work per answer. Validation during the run sees the image alone. 0 "
        "never shifts.",
        _MODEL, limits=("from 0 to 3", lambda value: 0 <= value <= 3))

    batch_size: int = _setting(
        128, "Images a step. Larger steps are fewer and smoother.",
        _TRAINING, limits=_AT_LEAST_1)
    shards: int = _setting(
        1, "Equal parts of each batch that go through the network side by side, each "
        "with its share of the cores: faster where operations are small. Batch "
        "normalisation sees one part at a time, and measuring has the cores of one.",
        _TRAINING, limits=("from 1 to 64", lambda value: 1 <= value <= 64))
    epochs: int = _setting(
        4, "Epochs to train; validation follows each.", _TRAINING, limits=_AT_LEAST_1)
    min_steps_per_epoch: int = _setting(
        0, "Fewest steps an epoch: it goes through a small data set several times. 0 "
        "is once.", _TRAINING, limits=_AT_LEAST_0)
    max_steps_per_epoch: int = _setting(
        0, "Most steps an epoch: it ends before it has gone through all images, and "
        "the next goes on from there. 0 is no limit.", _TRAINING, limits=_AT_LEAST_0)
    optimizer: str = _setting(
        "adamw", "What turns gradients into updates: adam, adamw or sgd (Nesterov).",
        _TRAINING, choices=("adam", "adamw", "sgd"))
    learning_rate: float = _setting(
        0.01, "Highest learning rate of the run. Too high diverges, too low crawls.",
        _TRAINING, limits=_POSITIVE)
    schedule: str = _setting(
        "linear", "How the learning rate falls after the warm-up: constant, linear or "
        "cosine.", _TRAINING, choices=("constant", "linear", "cosine"))
    warmup: float = _setting(
        0.25, "Share of the run during which the learning rate rises from 0.",
        _TRAINING, limits=_SHARE)
    momentum: float = _setting(
        0.9, "Share of the last update that goes on (beta 1 of adam).",
        _TRAINING, limits=_SHARE)
    beta_2: float = _setting(
        0.99, "adam, adamw: share of the old mean of squared gradients kept.",
        _TRAINING, limits=_SHARE)
    weight_decay: float = _setting(
        0.004, "adamw, sgd: pull of the kernels towards 0 at each step, relative to "
        "the learning rate.", _TRAINING, limits=_AT_LEAST_0)
    gradient_clip: float = _setting(
        0.0, "Longest gradient (global norm); 0 does not clip.",
        _TRAINING, limits=_AT_LEAST_0)
    label_smoothing: float = _setting(
        0.0, "Share of each target spread over all classes; makes the network less "
        "sure of itself.", _TRAINING, limits=_SHARE)
    ema_decay: float = _setting(
        0.0, "Keeps a moving average of the weights with this decay and evaluates and "
        "saves it instead of the last weights; 0 does not.",
        _TRAINING, limits=_SHARE)
    early_stopping: int = _setting(
        0, "Stops after this many epochs without a better validation accuracy; 0 "
        "never does.", _TRAINING, limits=_AT_LEAST_0)
    select: str = _setting(
        "last", "Which weights the run ends with: last, or best by validation "
        "accuracy.", _TRAINING, choices=("last", "best"))
    seed: int = _setting(
        1, "Decides every random draw; the same seed gives the same weights, bit for "
        "bit, on the same machine.", _TRAINING, limits=_SEED)

    model_dir: str = _setting(
        "out", "Folder that the trained model is written to.", _RUN, limits=_PATH)
    log_dir: str = _setting(
        "logs", "Folder that TensorBoard reads; each run gets a folder in it.",
        _RUN, limits=_PATH)
    resume: bool = _setting(
        False, "Goes on with the run in --model_dir from its last save.", _RUN)
    overwrite: bool = _setting(
        False, "Replaces the model that --model_dir holds.", _RUN)
    save_every: int = _setting(
        0, "Saves the state of the run every this many steps, besides at the end of "
        "each epoch; 0 does not.", _RUN, limits=_AT_LEAST_0)
    save_every_seconds: float = _setting(
        0.0, "The same by the clock; 0 does not.", _RUN, limits=_AT_LEAST_0)
    on_nonfinite: str = _setting(
        "stop", "What to do when the loss or a weight is not a finite number any more: "
        "stop, or rollback to the last save, with half the learning rate and three "
        "times at the most.", _RUN, choices=("stop", "rollback"))
    log_every: int = _setting(
        50, "Steps between two looks at the run: progress, curves, saves.",
        _RUN, limits=_AT_LEAST_1)
    intra_op_threads: int = _setting(
        0, "Threads of one operation; 0 leaves it to TensorFlow, or shares the cores "
        "among --shards.",
        _RUN, limits=_THREADS)
    inter_op_threads: int = _setting(
        0, "Operations side by side; 0 leaves it to TensorFlow, or is one for each of "
        "--shards.",
        _RUN, limits=_THREADS)
    # fmt: on

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise UserError("; ".join(problems))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them: lists in place of tuples."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The inverse of `to_dict`; settings that are missing get their defaults."""
        unknown = [key for key in values if key not in SETTINGS]
        if unknown:
            problems = [unknown_name("setting", key, SETTINGS) for key in unknown]
            raise UserError("; ".join(problems))
        settings: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
        }
        return cls(**settings)

    def to_json(self) -> str:
        """The settings as one JSON object."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """The inverse of `to_json`.

        Raises:
          UserError: this is not a JSON object of known settings with fitting values.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"settings: not JSON ({error})") from error
        if not isinstance(values, dict):
            raise UserError(f"settings: got {type(values).__name__}, not an object")
        return cls.from_dict(values)

    @classmethod
    def from_strings(
        cls,
        values: Mapping[str, str | bool],
        known: Mapping[str, Collection[str]] | None = None,
    ) -> "Config":
        """Makes a config of flags as they were typed.

        Args:
          values: by name; settings that are missing get their defaults.
          known: names that a setting must be one of, such as those of the models.

        Raises:
          UserError: lists every value that does not fit.
        """
        parsed: dict[str, Any] = {}
        problems = []
        for name, value in values.items():
            try:
                parsed[name] = _parse(SETTINGS[name], value)
            except ValueError:
                wanted = _kind(SETTINGS[name])
                problems.append(f"{name}: got {value!r}; give {wanted}")
        for name, names in (known or {}).items():
            if name in parsed and parsed[name] not in names:
                problems.append(unknown_name(name, parsed[name], names))
        try:
            config = cls(**parsed)
        except UserError as error:
            raise UserError("; ".join([*problems, str(error)])) from error
        if problems:
            raise UserError("; ".join(problems))
        return config


SETTINGS: dict[str, dataclasses.Field] = {f.name: f for f in dataclasses.fields(Config)}


def _kind(field: dataclasses.Field) -> str:
    kinds: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    return kinds.get(field.type, "whole numbers separated by commas")


def _parse(field: dataclasses.Field, value: str | bool) -> Any:
    if field.type in (bool, str):
        return value
    if field.type in (int, float):
        return field.type(value)
    return tuple(int(part) for part in str(value).split(","))


def _has_type(field: dataclasses.Field, value: Any) -> bool:
    if field.type is float:
        # Compared, because a whole number may be too large to become a float.
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if field.type in (bool, int, str):
        return type(value) is field.type
    return type(value) is tuple and all(type(item) is int for item in value)


def _problems(config: Config) -> list[str]:
    problems = []
    for name, field in SETTINGS.items():
        value, about = getattr(config, name), field.metadata
        if not _has_type(field, value):
            problems.append(f"{name}: got {value!r}; give {_kind(field)}")
        elif about["choices"] and value not in about["choices"]:
            problems.append(unknown_name(name, value, about["choices"]))
        elif about["limits"] and not about["limits"][1](value):
            problems.append(f"{name}: got {value!r}; give {about['limits'][0]}")
    if not problems:
        if config.resume and config.overwrite:
            problems.append("resume and overwrite: got both; give one of them")
        fewest, most = config.min_steps_per_epoch, config.max_steps_per_epoch
        if most and fewest > most:
            problems.append(
                f"min_steps_per_epoch, max_steps_per_epoch: got {fewest} and {most}; "
                "lower the first or raise the second"
            )
        watched = config.early_stopping > 0 or config.select == "best"
        if watched and config.validation_split == 0:
            problems.append(
                "validation_split: got 0.0; give more than 0, or no early_stopping "
                "and select=last, which need validation images"
            )
    return problems
