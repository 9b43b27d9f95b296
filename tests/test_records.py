"""Which settings may change when a run is resumed."""

import pytest

from mnist_tf import records
from mnist_tf.config import Config
from mnist_tf.errors import UserError


def described(**settings):
    config = Config(**settings).to_dict()
    return {"config": config, "dataset": {"sha256": "0", "name": "sample"}}


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 9},
        {"test_shift": 1},
        {"log_every": 9},
        {"save_every": 9},
        {"model_dir": "other"},
    ],
)
def test_what_does_not_decide_the_weights_may_change(setting):
    records.check_same(described(), described(**setting))


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"precision": "bfloat16"}, "precision was 'float32', is 'bfloat16'"),
        ({"max_steps_per_epoch": 9}, "max_steps_per_epoch was 0, is 9"),
        ({"intra_op_threads": 1}, "intra_op_threads was 0, is 1"),
    ],
)
def test_what_decides_the_weights_may_not(setting, line):
    with pytest.raises(UserError, match=f"^resume: {line};"):
        records.check_same(described(), described(**setting))


def test_a_setting_newer_than_the_save_had_its_default():
    saved = described()
    del saved["config"]["max_steps_per_epoch"]
    records.check_same(saved, described())
    with pytest.raises(UserError, match="max_steps_per_epoch was 0, is 9"):
        records.check_same(saved, described(max_steps_per_epoch=9))
