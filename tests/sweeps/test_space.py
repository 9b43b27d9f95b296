"""Search spaces: what --search accepts, and what it means."""

import pytest

from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.sweeps.space import (
    Choices,
    Range,
    grid,
    parse,
    variants,
    with_values,
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("learning_rate=log:0.003:0.03", Range(0.003, 0.03, True, False)),
        ("learning_rate=1e-3:1", Range(0.001, 1.0, False, False)),
        ("units=log:8:64", Range(8, 64, True, True)),
        ("epochs=2:5", Range(2, 5, False, True)),
        ("epochs=2,5", Choices((2, 5))),
        ("learning_rate=0.01,0.02", Choices((0.01, 0.02))),
        ("augment=none,affine", Choices(("none", "affine"))),
        ("flip=true,false", Choices((True, False))),
        ("filters=8,16,32/16,32,64", Choices(("8,16,32", "16,32,64"), "/")),
    ],
)
def test_the_type_of_the_setting_decides_what_values_are(text, values):
    name = text.partition("=")[0]
    space = parse([text])
    assert space == {name: values}
    assert [type(v) for v in space[name].extremes()] == [
        type(v) for v in values.extremes()
    ]
    # As it is told and stored.
    assert parse([f"{name}={values}"]) == space


def test_the_last_search_of_a_setting_wins():
    assert parse(["epochs=1:2", "flip=true,false", "epochs=3:4"]) == {
        "epochs": Range(3, 4, False, True),
        "flip": Choices((True, False)),
    }


def test_values_become_settings():
    values = {"filters": "8,16", "learning_rate": 0.5, "flip": True}
    expected = Config(filters=(8, 16), learning_rate=0.5, flip=True, epochs=7)
    assert with_values(Config(epochs=7), values) == expected


def test_each_choice_and_each_end_of_a_range_is_tried():
    found = variants(Config(), parse(["epochs=2:9", "augment=none,affine"]))
    assert found == [
        Config(epochs=2),
        Config(epochs=9),
        Config(),
        Config(augment="affine"),
    ]


def test_a_grid_has_all_choices_and_integers():
    space = parse(["epochs=2:4", "filters=8/8,16", "flip=true,false"])
    expected = {"epochs": [2, 3, 4], "filters": ["8", "8,16"], "flip": [True, False]}
    assert grid(space) == expected


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat=1:2", "(got 'learning_rat'; did you mean 'learning_rate'?)"),
        ("", "--search needs setting=values (got '')"),
        ("epochs", "--search needs setting=values (got 'epochs')"),
        ("model_dir=a,b", "--search=model_dir=a,b: the sweep sets --model_dir itself"),
        ("epochs=3:3", "--search=epochs=3:3 is empty; the first number must be the"),
        ("epochs=5:3", "is empty"),
        ("learning_rate=log:0:1", "a logarithm needs numbers above 0 (got 0.0)"),
        ("learning_rate=log:1", "must be low:high or log:low:high"),
        ("learning_rate=1:2:3", "must be low:high or log:low:high"),
        ("learning_rate=a:b", "must be low:high or log:low:high"),
        ("learning_rate=0:inf", "must be low:high or log:low:high"),
        ("learning_rate=nan,1", "must be low:high, log:low:high or a,b,c"),
        ("learning_rate=", "--search needs setting=values"),
        ("epochs=1.5:2", "must be low:high or log:low:high, of integers"),
        ("epochs=4", "has one value; write --epochs=4 instead"),
        ("epochs=4,4", "has a value twice; give it once"),
        ("flip=yes,no", "must be true,false"),
        ("filters=8,x/16", "must be lists of integers, as in 8,16/16,32"),
    ],
)
def test_a_search_that_means_nothing_is_an_error(text, words):
    with pytest.raises(UserError) as caught:
        parse([text])
    assert words in str(caught.value)


@pytest.mark.fault
def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as caught:
        parse(["epochs=3:3", "epoch=1:2", "flip=yes,no"])
    assert str(caught.value).count("; ") >= 2


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs=0:3", "--search=epochs=0:3: --epochs must be at least 1 (got 0)"),
        ("augment=none,afine", "(got 'afine'; did you mean 'affine'?)"),
        ("dropout=0:1", "--dropout must be at least 0 and less than 1 (got 1.0)"),
    ],
)
def test_a_value_that_the_setting_refuses_is_an_error(text, words):
    with pytest.raises(UserError) as caught:
        variants(Config(), parse([text]))
    assert words in str(caught.value)


@pytest.mark.fault
def test_a_grid_of_floats_is_an_error():
    with pytest.raises(UserError, match="write --search=dropout=a,b,c"):
        grid(parse(["dropout=0:0.5"]))
