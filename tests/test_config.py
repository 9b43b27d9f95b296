"""Every setting has limits, and a value outside them is refused by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tf.config import SETTINGS, Config
from mnist_tf.errors import UserError
from tests.conftest import refusal

SHARES = st.floats(0, 1, exclude_max=True)
CONFIGS = st.builds(
    Config,
    data_dir=st.text(),
    augment=st.sampled_from(["none", "shift", "affine"]),
    augment_shift=st.floats(0, 14),
    filters=st.lists(st.integers(1, 4096), min_size=1, max_size=3).map(tuple),
    dropout=SHARES,
    batch_size=st.integers(1),
    learning_rate=st.floats(0, exclude_min=True, allow_infinity=False),
    momentum=SHARES,
    seed=st.integers(0, 2**31 - 1),
    overwrite=st.booleans(),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FILTERS = "one to three whole numbers from 1 to 4096"
JSON_SETTINGS = st.dictionaries(st.sampled_from(list(SETTINGS)), JSON_VALUES)


@given(CONFIGS)
def test_a_config_survives_json(config):
    assert Config.from_json(config.to_json()) == config


@given(CONFIGS)
def test_a_config_survives_a_dictionary_of_json_types(config):
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(st.text() | JSON_VALUES.map(json.dumps) | JSON_SETTINGS.map(json.dumps))
def test_any_text_is_a_config_or_refused(text):
    try:
        assert isinstance(Config.from_json(text), Config)
    except UserError as error:
        assert "\n" not in str(error)


def test_settings_that_are_missing_have_their_defaults():
    assert Config.from_json('{"epochs": 7}') == Config(epochs=7)


def test_strings_become_what_the_setting_holds():
    typed = {"batch_size": "64", "warmup": "0.5", "filters": "8,16", "resume": True}
    expected = Config(batch_size=64, warmup=0.5, filters=(8, 16), resume=True)
    assert Config.from_strings(typed) == expected


@pytest.mark.parametrize(
    ("setting", "typed", "seen", "wanted"),
    [
        ("batch_size", "0", "0", "at least 1"),
        ("batch_size", "-1", "-1", "at least 1"),
        ("batch_size", "1.5", "'1.5'", "a whole number"),
        ("batch_size", "", "''", "a whole number"),
        ("epochs", "0", "0", "at least 1"),
        ("convs_per_stage", "0", "0", "from 1 to 100"),
        ("num_layers", "101", "101", "from 1 to 100"),
        ("units", "5000", "5000", "from 1 to 4096"),
        ("log_every", "0", "0", "at least 1"),
        ("min_steps_per_epoch", "-1", "-1", "at least 0"),
        ("early_stopping", "-1", "-1", "at least 0"),
        ("save_every", "-1", "-1", "at least 0"),
        ("save_every_seconds", "-0.5", "-0.5", "at least 0"),
        ("weight_decay", "-1", "-1.0", "at least 0"),
        ("gradient_clip", "-1", "-1.0", "at least 0"),
        ("learning_rate", "0", "0.0", "greater than 0"),
        ("learning_rate", "-1", "-1.0", "greater than 0"),
        ("learning_rate", "nan", "nan", "a number"),
        ("learning_rate", "inf", "inf", "a number"),
        ("learning_rate", "abc", "'abc'", "a number"),
        ("validation_split", "1", "1.0", "at least 0 and below 1"),
        ("dropout", "-0.1", "-0.1", "at least 0 and below 1"),
        ("warmup", "1", "1.0", "at least 0 and below 1"),
        ("momentum", "1", "1.0", "at least 0 and below 1"),
        ("beta_2", "1", "1.0", "at least 0 and below 1"),
        ("label_smoothing", "1", "1.0", "at least 0 and below 1"),
        ("ema_decay", "1", "1.0", "at least 0 and below 1"),
        ("seed", "-1", "-1", "from 0 to 2**31 - 1"),
        ("seed", "2147483648", "2147483648", "from 0 to 2**31 - 1"),
        ("augment_shift", "14.5", "14.5", "from 0 to 14"),
        ("augment_rotation", "46", "46.0", "from 0 to 45"),
        ("augment_shear", "-1", "-1.0", "from 0 to 45"),
        ("augment_zoom", "0.6", "0.6", "from 0 to 0.5"),
        ("filters", "", "''", "whole numbers separated by commas"),
        ("filters", "8,x", "'8,x'", "whole numbers separated by commas"),
        ("filters", "0", "(0,)", FILTERS),
        ("filters", "4097", "(4097,)", FILTERS),
        ("filters", "1,2,3,4", "(1, 2, 3, 4)", FILTERS),
        ("shards", "0", "0", "from 1 to 64"),
        ("shards", "65", "65", "from 1 to 64"),
        ("test_shift", "4", "4", "from 0 to 3"),
        ("test_shift", "-1", "-1", "from 0 to 3"),
        ("max_steps_per_epoch", "-1", "-1", "at least 0"),
        ("intra_op_threads", "1025", "1025", "from 0 to 1024"),
        ("inter_op_threads", "-1", "-1", "from 0 to 1024"),
        ("model_dir", "", "''", "the name of a folder"),
        ("log_dir", "", "''", "the name of a folder"),
        ("resume", "yes", "'yes'", "true or false"),
    ],
)
def test_a_value_outside_the_limits_is_refused(setting, typed, seen, wanted):
    line = refusal(Config.from_strings, {setting: typed})
    assert line == f"{setting}: got {seen}; give {wanted}"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("validation_split", 0),
        ("augment_shift", 14),
        ("augment_rotation", 45),
        ("augment_zoom", 0.5),
        ("filters", (1, 2, 3)),
        ("dropout", 0.999),
        ("batch_size", 1),
        ("shards", 64),
        ("test_shift", 3),
        ("intra_op_threads", 1024),
        ("seed", 0),
        ("seed", 2**31 - 1),
        ("weight_decay", 0),
    ],
)
def test_the_limits_themselves_are_accepted(setting, value):
    assert getattr(Config(**{setting: value}), setting) == value


@pytest.mark.parametrize(
    ("setting", "typed", "nearest"),
    [
        ("schedule", "linaer", "linear"),
        ("augment", "afine", "affine"),
        ("normalization", "batsh", "batch"),
        ("precision", "float23", "float32"),
        ("optimizer", "sdg", "sgd"),
        ("select", "bestt", "best"),
    ],
)
def test_a_misspelt_choice_is_told_the_nearest(setting, typed, nearest):
    line = refusal(Config.from_strings, {setting: typed})
    assert f"{setting}: got {typed!r} (did you mean {nearest!r}?); choose" in line


def test_names_known_elsewhere_are_checked_too():
    known = {"model": ["cnn", "fc"]}
    assert Config.from_strings({"model": "fc"}, known).model == "fc"
    line = refusal(Config.from_strings, {"model": "cmn"}, known)
    assert line == "model: got 'cmn' (did you mean 'cnn'?); choose from cnn, fc"


def test_all_mistakes_are_told_at_once():
    typed = {"batch_size": "0", "learning_rate": "abc", "schedule": "x", "model": "y"}
    line = refusal(Config.from_strings, typed, {"model": ["cnn"]})
    for setting in typed:
        assert f"{setting}: got" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"batchsize": 3}', ["setting: got 'batchsize'", "did you mean 'batch_size'"]),
        ('{"learning_rate": NaN}', ["learning_rate: got nan; give a number"]),
        ('{"learning_rate": Infinity}', ["learning_rate: got inf; give a number"]),
        ('{"learning_rate": 1%s}' % ("0" * 400), ["learning_rate: got 1"]),
        ('{"learning_rate": true}', ["learning_rate: got True; give a number"]),
        ('{"epochs": 1.0}', ["epochs: got 1.0; give a whole number"]),
        ('{"epochs": true}', ["epochs: got True; give a whole number"]),
        ('{"model": 3}', ["model: got 3; give a text"]),
        ('{"filters": [1.5]}', ["filters: got (1.5,)", "separated by commas"]),
        ("[]", ["settings: got list, not an object"]),
        ("null", ["settings: got NoneType, not an object"]),
        ("{", ["settings: not JSON"]),
        ("", ["settings: not JSON"]),
        ("[" * 100_000, ["settings: not JSON"]),
    ],
)
def test_json_that_is_no_config_is_refused(text, words):
    line = refusal(Config.from_json, text)
    assert all(word in line for word in words)


def test_resuming_and_overwriting_exclude_each_other():
    line = refusal(Config.from_strings, {"resume": True, "overwrite": True})
    assert line == "resume and overwrite: got both; give one of them"


def test_an_epoch_cannot_have_more_steps_than_its_most():
    typed = {"min_steps_per_epoch": "9", "max_steps_per_epoch": "8"}
    line = refusal(Config.from_strings, typed)
    assert line == (
        "min_steps_per_epoch, max_steps_per_epoch: got 9 and 8; lower the first or "
        "raise the second"
    )
    Config(min_steps_per_epoch=9, max_steps_per_epoch=0)
    Config(min_steps_per_epoch=9, max_steps_per_epoch=9)


@pytest.mark.parametrize("watching", [{"early_stopping": "2"}, {"select": "best"}])
def test_watching_the_validation_needs_validation_images(watching):
    line = refusal(Config.from_strings, {"validation_split": "0", **watching})
    assert "validation_split: got 0.0; give more than 0" in line


@pytest.mark.parametrize("field", SETTINGS.values(), ids=lambda field: field.name)
def test_every_setting_is_explained(field):
    assert field.metadata["help"].endswith(".")
    assert field.metadata["group"] in ("Data", "Model", "Training", "Run")
