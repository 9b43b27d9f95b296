"""The settings of a run: their types, limits, conflicts and JSON."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tf.config import SETTINGS, Config
from mnist_tf.errors import UserError
from tests.conftest import refusal

FRACTIONS = st.floats(0, 1, exclude_max=True)
CONFIGS = st.builds(
    Config,
    data_dir=st.text(),
    augment=st.sampled_from(["none", "shift", "affine"]),
    augment_shift=st.floats(0, 14),
    filters=st.lists(st.integers(1, 4096), min_size=1, max_size=3).map(tuple),
    dropout=FRACTIONS,
    batch_size=st.integers(1, 2**31 - 1),
    learning_rate=st.floats(0, exclude_min=True, allow_infinity=False),
    momentum=FRACTIONS,
    seed=st.integers(0, 2**31 - 1),
    overwrite=st.booleans(),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
# Changing one changes the results of everyone who does not set it.
DEFAULTS = {
    "validation_split": 0.1, "augment_fraction": 1.0, "augment_shift": 2.0,
    "augment_rotation": 10.0, "augment_zoom": 0.1, "augment_shear": 5.0,
    "filters": (16, 32, 64),
    "convs_per_stage": 1, "num_layers": 3, "units": 64, "batch_size": 128, "shards": 1,
    "epochs": 4, "learning_rate": 0.01, "warmup": 0.25, "momentum": 0.9,
    "beta_2": 0.99, "weight_decay": 0.004, "seed": 1, "log_every": 50,
}  # fmt: skip
OFF = [
    "dropout", "test_shift", "min_steps_per_epoch", "max_steps_per_epoch",
    "global_clipnorm", "label_smoothing", "ema_decay", "early_stopping",
    "restore_best_weights", "resume", "overwrite", "save_every", "save_every_seconds",
    "intra_op_threads", "inter_op_threads",
]  # fmt: skip
FILTERS = "one to six integers between 1 and 4096"
JSON_SETTINGS = st.dictionaries(st.sampled_from(list(SETTINGS)), JSON_VALUES)


def refused(settings):
    return refusal(lambda: Config(**settings))


@given(CONFIGS)
def test_a_config_round_trips_through_a_dictionary_of_json_types(config):
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(JSON_SETTINGS)
def test_any_json_values_are_a_config_or_an_error(settings):
    try:
        assert isinstance(Config.from_dict(settings), Config)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_run_without_flags_uses_these_settings():
    found = {name: getattr(Config(), name) for name in (*DEFAULTS, *OFF)}
    assert found == DEFAULTS | dict.fromkeys(OFF, 0)


def test_settings_do_not_change_during_a_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().epochs = 7


def test_values_from_a_notebook_are_settings(tmp_path):
    config = Config(
        filters=[np.int64(4), 8],
        learning_rate=np.float64(0.5),
        ema_decay=np.float32(0.5),
        epochs=np.int64(2),
        model_dir=tmp_path,
    )
    plain = Config(
        filters=(4, 8), learning_rate=0.5, ema_decay=0.5, epochs=2,
        model_dir=str(tmp_path),
    )  # fmt: skip
    assert config == plain
    assert json.dumps(config.to_dict()) == json.dumps(plain.to_dict())


def test_missing_settings_get_their_defaults():
    assert Config.from_dict({"epochs": 7}) == Config(epochs=7)


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("batch_size", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("batch_size", 1.5, "an integer"),
        ("batch_size", "8", "an integer"),
        ("batch_size", True, "an integer"),
        ("epochs", 0, "at least 1"),
        ("epochs", 2**31, "less than 2**31"),
        ("epochs", 10**23, "less than 2**31"),
        ("convs_per_stage", 0, "between 1 and 100"),
        ("convs_per_stage", 101, "between 1 and 100"),
        ("num_layers", 0, "between 1 and 100"),
        ("num_layers", 101, "between 1 and 100"),
        ("units", 0, "between 1 and 4096"),
        ("units", 4097, "between 1 and 4096"),
        ("log_every", 0, "at least 1"),
        ("min_steps_per_epoch", -1, "at least 0"),
        ("max_steps_per_epoch", -1, "at least 0"),
        ("early_stopping", -1, "at least 0"),
        ("save_every", -1, "at least 0"),
        ("save_every_seconds", -0.5, "at least 0"),
        ("weight_decay", -1.0, "at least 0"),
        ("global_clipnorm", -1.0, "at least 0"),
        ("learning_rate", 0, "greater than 0"),
        ("learning_rate", -1.0, "greater than 0"),
        ("learning_rate", math.nan, "a finite number"),
        ("learning_rate", math.inf, "a finite number"),
        ("learning_rate", 10**400, "a finite number"),
        ("learning_rate", "0.1", "a finite number"),
        ("learning_rate", True, "a finite number"),
        ("validation_split", 1.0, "at least 0 and less than 1"),
        ("dropout", -0.1, "at least 0 and less than 1"),
        ("warmup", 1, "at least 0 and less than 1"),
        ("momentum", 1.0, "at least 0 and less than 1"),
        ("beta_2", 1.0, "at least 0 and less than 1"),
        ("label_smoothing", 1.0, "at least 0 and less than 1"),
        ("ema_decay", 1.0, "at least 0 and less than 1"),
        ("seed", -1, "between 0 and 2**31 - 1"),
        ("seed", 2**31, "between 0 and 2**31 - 1"),
        ("augment_shift", 14.5, "between 0 and 14"),
        ("augment_shift", -0.5, "between 0 and 14"),
        ("augment_rotation", -0.5, "between 0 and 45"),
        ("augment_rotation", 45.5, "between 0 and 45"),
        ("augment_shear", -0.5, "between 0 and 45"),
        ("augment_fraction", 0, "greater than 0 and at most 1"),
        ("augment_fraction", 1.01, "greater than 0 and at most 1"),
        ("augment_shear", 45.5, "between 0 and 45"),
        ("augment_zoom", -0.1, "between 0 and 0.5"),
        ("augment_zoom", 0.6, "between 0 and 0.5"),
        ("filters", (), FILTERS),
        ("filters", (0,), FILTERS),
        ("filters", (4097,), FILTERS),
        ("filters", (1, 2, 3, 4, 5, 6, 7), FILTERS),
        ("filters", "8", "a comma-separated list of integers"),
        ("filters", (8, 1.5), "a comma-separated list of integers"),
        ("filters", {8}, "a comma-separated list of integers"),
        ("shards", 0, "between 1 and 64"),
        ("shards", 65, "between 1 and 64"),
        ("shards", "two", "an integer or auto"),
        ("shards", 2.0, "an integer or auto"),
        ("test_shift", 4, "between 0 and 3"),
        ("test_shift", -1, "between 0 and 3"),
        ("intra_op_threads", -1, "between 0 and 1024"),
        ("intra_op_threads", 1025, "between 0 and 1024"),
        ("inter_op_threads", -1, "between 0 and 1024"),
        ("inter_op_threads", 1025, "between 0 and 1024"),
        ("model", 3, "a string"),
        ("model_dir", "", "a path"),
        ("log_dir", "", "a path"),
        ("resume", "yes", "true, false or auto"),
        ("overwrite", 1, "true or false"),
        ("restore_best_weights", None, "true or false"),
    ],
)
def test_a_value_of_the_wrong_type_or_outside_its_limits(setting, value, wanted):
    shown = repr(value)
    if isinstance(value, tuple):
        shown = ",".join(map(repr, value)) or "nothing"
    assert refused({setting: value}) == f"--{setting} must be {wanted} (got {shown})"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("validation_split", 0),
        ("augment_shift", 14),
        ("augment_rotation", 0),
        ("augment_rotation", 45),
        ("augment_shear", 0),
        ("augment_shear", 45),
        ("augment_fraction", 1),
        ("augment_zoom", 0),
        ("augment_zoom", 0.5),
        ("filters", (1, 2, 3)),
        ("filters", (4096,)),
        ("dropout", 0.999),
        ("batch_size", 1),
        ("epochs", 2**31 - 1),
        ("convs_per_stage", 100),
        ("num_layers", 1),
        ("num_layers", 100),
        ("units", 1),
        ("units", 4096),
        ("shards", 64),
        ("shards", "auto"),
        ("test_shift", 3),
        ("intra_op_threads", 1024),
        ("inter_op_threads", 1024),
        ("learning_rate", 5e-324),
        ("learning_rate", sys.float_info.max),
        ("seed", 0),
        ("seed", 2**31 - 1),
        ("weight_decay", 0),
    ],
)
def test_limits_are_inclusive(setting, value):
    assert getattr(Config(**{setting: value}), setting) == value


@pytest.mark.parametrize(
    ("setting", "value", "nearest"),
    [
        ("schedule", "linaer", "linear"),
        ("augment", "afine", "affine"),
        ("normalization", "batsh", "batch"),
        ("precision", "float23", "float32"),
        ("optimizer", "sdg", "sgd"),
        ("on_nonfinite", "rolback", "rollback"),
    ],
)
def test_an_unknown_choice_suggests_the_nearest(setting, value, nearest):
    choices = ", ".join(SETTINGS[setting].metadata["choices"])
    assert refused({setting: value}) == (
        f"--{setting} must be one of {choices} (got {value!r}; did you mean "
        f"{nearest!r}?)"
    )


def test_all_mistakes_are_reported_at_once():
    line = refused({"batch_size": 0, "learning_rate": "abc", "schedule": "x"})
    assert line.split("; ") == [
        "--batch_size must be at least 1 (got 0)",
        "--learning_rate must be a finite number (got 'abc')",
        "--schedule must be one of constant, linear, cosine (got 'x')",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"epochz": 3}', "setting must be one of dataset, data_dir,"),
        ('{"batchsize": 3}', "(got 'batchsize'; did you mean 'batch_size'?)"),
        ('{"learning_rate": NaN}', "--learning_rate must be a finite number (got nan)"),
        (
            '{"learning_rate": -Infinity}',
            "--learning_rate must be a finite number (got -inf)",
        ),
        ('{"epochs": 1.0}', "--epochs must be an integer (got 1.0)"),
        ('{"model": null}', "--model must be a string (got None)"),
        (
            '{"filters": [1.5]}',
            "--filters must be a comma-separated list of integers (got 1.5)",
        ),
    ],
)
def test_settings_in_json_that_are_not_a_config(text, message):
    assert message in refusal(Config.from_dict, json.loads(text))


def test_resume_and_overwrite_exclude_each_other():
    assert refused({"resume": True, "overwrite": True}) == (
        "--resume and --overwrite exclude each other; use one of them"
    )


def test_the_minimum_of_steps_per_epoch_cannot_exceed_the_maximum():
    assert refused({"min_steps_per_epoch": 9, "max_steps_per_epoch": 8}) == (
        "--min_steps_per_epoch must not exceed --max_steps_per_epoch (got 9 and 8)"
    )
    Config(min_steps_per_epoch=9, max_steps_per_epoch=0)
    Config(min_steps_per_epoch=9, max_steps_per_epoch=9)


@pytest.mark.parametrize("field", SETTINGS.values(), ids=lambda field: field.name)
def test_every_setting_has_a_help_text_and_a_group(field):
    assert field.metadata["help"].endswith(".")
    assert field.metadata["group"] in ("Data", "Model", "Training", "Run")
