"""The fused batch normalisation computes what Keras's own layer does."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn.layers import BatchNormalization

SHAPES = [(32, 5), (8, 6, 6, 5)]


def pair(momentum=0.8):
    ours = BatchNormalization(momentum=momentum)
    theirs = keras.layers.BatchNormalization(momentum=momentum)
    return ours, theirs


def inputs(shape):
    return np.random.default_rng(3).normal(2.0, 3.0, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_normalises_by_the_batch_as_keras_does(shape):
    ours, theirs = pair()
    x = inputs(shape)
    np.testing.assert_allclose(
        ours(x, training=True), theirs(x, training=True), atol=1e-5
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_averages_follow_keras_up_to_bessels_correction(shape):
    ours, theirs = pair()
    x = inputs(shape)
    for _ in range(3):
        ours(x, training=True)
        theirs(x, training=True)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-5)
    count = np.prod(shape[:-1])
    start = 0.8**3  # what is left of the initial variance of 1
    unbiased = (theirs.moving_variance - start) * count / (count - 1) + start
    np.testing.assert_allclose(ours.moving_variance, unbiased, rtol=1e-5)


def test_inference_uses_the_moving_averages_and_does_not_change_them():
    ours, _ = pair()
    x = inputs((16, 5))
    ours(x, training=True)
    mean, variance = ours.moving_mean.numpy(), ours.moving_variance.numpy()
    expected = (x - mean) / np.sqrt(variance + ours.epsilon)
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mean, ours.moving_mean)


def test_the_variables_have_the_names_and_values_that_keras_gives_them():
    names = []
    for layer in pair():
        layer.build((None, 5))
        names.append([(each.name, each.trainable) for each in layer.variables])
        assert [float(each[0]) for each in layer.variables] == [1.0, 0.0, 0.0, 1.0]
    assert names[0] == names[1]


def test_bfloat16_inputs_keep_float32_statistics():
    layer = BatchNormalization(dtype="mixed_bfloat16")
    outputs = layer(tf.cast(inputs((8, 4, 4, 3)), tf.bfloat16), training=True)
    assert outputs.dtype == tf.bfloat16
    assert {variable.dtype for variable in layer.variables} == {"float32"}


def test_gradients_reach_scale_offset_and_inputs():
    layer, theirs = pair()
    x = tf.constant(inputs((16, 5)))
    found = []
    for each in (layer, theirs):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(each(x, training=True) ** 3)
        found.append(tape.gradient(loss, [x, *each.trainable_variables]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-2)
