"""The settings that may change when a run is resumed, and the summary of a run."""

import re

import pytest

from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.run import manifest

HARDWARE = {
    "processor": "some avx2", "cores": 2, "intra_op_threads": 1, "replicas": 1
}  # fmt: skip


def described(**settings):
    config = Config(**settings).to_dict()
    dataset = {"sha256": "0", "name": "sample"}
    return {"config": config, "dataset": dataset, "hardware": HARDWARE}


@pytest.mark.parametrize(
    "setting",
    [
        {"test_shift": 1},
        {"log_every": 9},
        {"save_every": 9},
        {"model_dir": "other"},
    ],
)
def test_settings_that_do_not_affect_the_weights_may_change(setting):
    assert manifest.compare(described(), described(**setting)) == []


def test_other_epochs_and_other_hardware_are_events_of_the_run():
    now = described(epochs=9) | {"hardware": HARDWARE | {"cores": 1}}
    epochs, hardware = manifest.compare(described(), now)
    assert epochs == {"event": "epochs", "from": 4, "to": 9}
    assert hardware == {
        "event": "hardware", "from": HARDWARE, "to": HARDWARE | {"cores": 1}
    }  # fmt: skip
    line = manifest.describe_event({"step": 64, **hardware})
    assert line == (
        "from step 64 on different hardware, which rounds differently: cores 2 -> 1"
    )


def test_a_checkpoint_without_a_number_of_replicas_has_one():
    before = {key: HARDWARE[key] for key in HARDWARE if key != "replicas"}
    assert manifest.compare(described() | {"hardware": before}, described()) == []
    now = described() | {"hardware": HARDWARE | {"replicas": 2}}
    [event] = manifest.compare(described() | {"hardware": before}, now)
    assert "replicas 1 -> 2" in manifest.describe_event({"step": 64, **event})


@pytest.mark.fault
@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"seed": 2}, "--seed was 1 and is now 2"),
        ({"precision": "bfloat16"}, "--precision was 'float32' and is now 'bfloat16'"),
        ({"max_steps_per_epoch": 9}, "--max_steps_per_epoch was 0 and is now 9"),
        ({"intra_op_threads": 1}, "--intra_op_threads was 0 and is now 1"),
        (
            {"seed": 2, "momentum": 0.5},
            "--momentum was 0.9 and is now 0.5; --seed was 1 and is now 2",
        ),
    ],
)
def test_settings_that_affect_the_weights_may_not_change(setting, line):
    with pytest.raises(UserError, match=f"^--resume: {re.escape(line)}; use the"):
        manifest.compare(described(), described(**setting))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mnist", "the data set was sample and is now mnist; use the settings"),
        ("sample", "the images or labels of the data set sample are no longer the"),
    ],
)
def test_the_data_may_not_change(name, line):
    other = described() | {"dataset": {"sha256": "1", "name": name}}
    with pytest.raises(UserError, match=f"^--resume: {line}"):
        manifest.compare(described(), other)


def test_a_setting_newer_than_the_checkpoint_had_its_default():
    saved = described()
    del saved["config"]["max_steps_per_epoch"]
    manifest.compare(saved, described())
    with pytest.raises(UserError, match="--max_steps_per_epoch was 0 and is now 9"):
        manifest.compare(saved, described(max_steps_per_epoch=9))


def test_the_summary_tells_of_damaged_files_and_photos():
    images = {"train": 40, "validation": 5, "test": 6}
    description = {
        "dataset": {"origin": "photos", "images": images, "skipped": 1},
        "preprocessing": {
            "method": "photo", "height": 48, "width": 64, "color": "rgb",
            "resize": "pad",
        },
        "model": {"name": "cnn"},
        "events": [],
    }  # fmt: skip
    metrics = {
        "dataset": "custom", "parameters": 7, "epochs": 1, "steps": 1,
        "images_per_second": 1.0, "seconds": {},
    }  # fmt: skip
    lines = manifest.summary(description, metrics, ("out", "logs/run")).splitlines()
    assert lines[:2] == [
        "data        custom (photos): 40 train, 5 validation, 6 test; 1 damaged file "
        "skipped",
        "input       64x48 in colour, photos (pad)",
    ]


def test_the_summary_shows_every_metric_and_accuracy_first():
    description = {
        "dataset": {
            "origin": "the project",
            "images": {"train": 4050, "test": 0},
            "skipped": 0,
        },
        "preprocessing": {
            "method": "digits",
            "height": 28,
            "width": 28,
            "color": "grayscale",
        },
        "model": {"name": "fc"},
        "events": [
            {"step": 32, "event": "rollback", "learning_rate": 0.005},
            {"step": 48, "event": "epochs", "from": 1, "to": 2},
        ],
    }
    metrics = {
        "dataset": "sample",
        "parameters": 7850,
        "epochs": 2,
        "steps": 64,
        "images_per_second": 7123.4,
        "test": {"loss": 0.25, "top_3": 0.75, "accuracy": 0.5},
        "seconds": {"data": 0.25, "train": 12.0},
    }
    text = manifest.summary(description, metrics, ("out", "logs/run"))
    assert text.splitlines() == [
        "data        sample (the project): 4,050 train",
        "input       28x28 greyscale, digits as MNIST's",
        "model       fc, 7,850 parameters",
        "training    2 epochs, 64 steps, 7,123 images/s",
        "            from step 32 on the learning rate was 0.005 at its peak",
        "            from step 48 on the learning rate follows the schedule of 2 "
        "epochs, not of 1",
        "test        accuracy 50.00%  loss 0.2500  top_3 0.7500",
        "time        data 0.2 s, train 12.0 s",
        "model in    out",
        "logs in     logs/run",
    ]
