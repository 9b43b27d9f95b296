"""The fused batch normalisation computes what Keras's own layer does; other layers."""

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.nn.layers import BatchNormalization, HaarTransform, IdentityInitializer

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


class TestHaarTransform:
    @staticmethod
    def coefficients(images):
        """The first half; averages of 0 and 1 leave them as they are."""
        both = np.array(HaarTransform()(np.asarray(images, np.float32)))
        positive, negative = np.split(both * np.sqrt(1.001), 2, axis=-1)
        np.testing.assert_array_equal(positive, -negative)
        return positive

    def test_a_flat_grey_patch_has_its_mean_and_no_edges(self):
        grey = np.full((1, 2, 2, 1), 100.0)
        found = self.coefficients(grey)[0, 0, 0]
        np.testing.assert_allclose(found, [200, 0, 0, 0], atol=1e-4)

    def test_each_edge_has_a_coefficient(self):
        image = np.zeros((1, 2, 2, 1))
        image[0, :, 0] = 10  # the left column
        found = self.coefficients(image)[0, 0, 0]
        np.testing.assert_allclose(found, [10, 10, 0, 0], atol=1e-5)
        found = self.coefficients(image.transpose(0, 2, 1, 3))[0, 0, 0]
        np.testing.assert_allclose(found, [10, 0, 10, 0], atol=1e-5)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_it_is_a_rotation(self, channels):
        patches = np.random.default_rng(1).normal(size=(50, 2, 2, channels))
        found = self.coefficients(patches)
        assert found.shape == (50, 1, 1, 4 * channels)
        lengths = np.linalg.norm(patches.reshape(50, -1), axis=1)
        np.testing.assert_allclose(
            np.linalg.norm(found, axis=-1).ravel(), lengths, rtol=1e-5
        )

    def test_grey_pixels_in_colour_have_no_colour(self):
        grey = np.random.default_rng(1).uniform(0, 255, (1, 5, 5, 1)).repeat(3, -1)
        by_color = self.coefficients(grey).reshape(1, 4, 4, 4, 3)
        np.testing.assert_allclose(by_color[..., 1:], 0, atol=1e-4)
        assert np.abs(by_color[..., 0]).max() > 100

    def test_training_normalises_by_the_batch(self):
        images = np.random.default_rng(1).uniform(0, 255, (200, 12, 12, 3))
        found = np.array(HaarTransform()(images.astype(np.float32), training=True))
        # Up to chance: mean and variance are those of every fourth patch.
        np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=0.05)
        np.testing.assert_allclose(found.std((0, 1, 2)), 1, atol=0.05)

    def test_pixels_are_exact_in_bfloat16(self):
        pixels = np.random.default_rng(1).integers(0, 256, (20, 8, 8, 3)) // 9 * 9
        exact = HaarTransform()(tf.cast(pixels, tf.float32), training=True)
        rounded = HaarTransform()(tf.cast(pixels, tf.bfloat16), training=True)
        np.testing.assert_allclose(tf.cast(rounded, tf.float32), exact, atol=2**-5)

    def test_inference_uses_the_moving_averages_and_does_not_change_them(self):
        layer = HaarTransform(momentum=0.5)
        images = np.random.default_rng(1).uniform(0, 255, (50, 5, 5, 1))
        once = layer(images.astype(np.float32), training=True)
        mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
        assert mean[0] > 100 and variance.min() > 1000  # half of the batch's
        for _ in range(30):
            layer(images.astype(np.float32), training=True)
        np.testing.assert_allclose(layer(images.astype(np.float32)), once, rtol=1e-4)
        np.testing.assert_allclose(layer.moving_mean, 2 * mean, rtol=1e-4)
        np.testing.assert_allclose(layer.moving_variance, 2 * variance - 1, rtol=1e-4)

    def test_frozen_it_keeps_its_averages(self):
        layer = HaarTransform()
        layer.trainable = False
        images = inputs((2, 6, 6, 3))
        np.testing.assert_array_equal(layer(images, training=True), layer(images))
        np.testing.assert_array_equal(layer.moving_mean, 0)

    def test_an_image_without_colour_stays_finite(self):
        grey = np.full((4, 6, 6, 3), 7.0, np.float32)
        assert np.isfinite(HaarTransform()(grey, training=True)).all()

    def test_nothing_is_trained(self):
        layer = HaarTransform()
        layer(inputs((1, 4, 4, 3)))
        assert not layer.trainable_weights


class TestIdentityInitializer:
    def test_a_convolution_passes_on_its_inputs(self):
        conv = keras.layers.Conv2D(
            8, 3, padding="same", kernel_initializer=IdentityInitializer()
        )
        x = inputs((2, 6, 6, 5))
        np.testing.assert_allclose(conv(x)[..., :5], x, atol=1e-6)

    def test_the_other_filters_are_random_and_of_the_same_norm(self):
        kernel = np.array(IdentityInitializer()((3, 3, 16, 400), "float32"))
        norms = np.linalg.norm(kernel.reshape(-1, 400), axis=0)
        assert np.all(norms[:16] == 1.0)
        assert 0.95 < norms[16:].mean() < 1.05
        assert norms[16:].std() > 0.01

    def test_with_fewer_filters_some_channels_are_not_passed_on(self):
        kernel = np.array(IdentityInitializer()((3, 3, 4, 2), "float32"))
        np.testing.assert_array_equal(kernel[1, 1], np.eye(4)[:, :2])


def test_synchronized_replicas_normalise_by_the_whole_batch():
    # In a process of its own: devices can only be divided before they are used.
    code = """
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, halves)
        from mnist_tf.nn.layers import BatchNormalization, HaarTransform
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
        rng = np.random.default_rng(0)
        for Layer, shape, outputs in (
            (BatchNormalization, (8, 5), (8, 5)),
            (BatchNormalization, (8, 4, 4, 5), (8, 4, 4, 5)),
            (HaarTransform, (8, 4, 4, 1), (8, 3, 3, 8)),
        ):
            inputs = rng.normal(3, 2, shape).astype("float32")
            targets = rng.normal(size=outputs).astype("float32")

            def passed(layer, images, targets):
                images = tf.convert_to_tensor(images)
                with tf.GradientTape() as tape:
                    tape.watch(images)
                    outputs = layer(images, training=True)
                    loss = tf.reduce_sum(outputs * targets)
                return outputs, tape.gradient(loss, images)

            found = {}
            for synchronized in (True, False):
                whole = Layer()
                with strategy.scope():
                    layer = Layer(synchronized=synchronized)
                    layer.build(shape)
                def share(context):
                    rows = context.replica_id_in_sync_group
                    return inputs[4 * rows : 4 * rows + 4]
                replicas = [
                    strategy.experimental_distribute_values_from_function(
                        lambda context, array=array: tf.constant(array[
                            4 * context.replica_id_in_sync_group:][:4]))
                    for array in (inputs, targets)
                ]
                parts = strategy.run(lambda i, t: passed(layer, i, t), replicas)
                parts = [np.concatenate(strategy.experimental_local_results(part))
                         for part in parts]
                expected = passed(whole, inputs, targets)
                averages = [
                    np.abs(np.asarray(a) - np.asarray(b)).max()
                    for a, b in zip(layer.non_trainable_variables,
                                    whole.non_trainable_variables, strict=True)
                ]
                worst = [np.abs(a - b).max() for a, b in zip(parts, expected)]
                found[synchronized] = max(worst + averages)
            assert found[True] < 1e-5 < 0.01 < found[False], (Layer, found)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
