"""Batches: every sample, in an order that the seed and the step alone decide."""

import numpy as np
import pytest
import tensorflow as tf

from mnist_tf.dataloader import evaluation_batches, training_batches
from mnist_tf.errors import UserError
from mnist_tf.nn.augmentation import Augmentation

AFFINE = Augmentation(shift=2, rotation=10, zoom=0.1, shear=5)


def numbered(count):
    """Images whose first two pixels hold their label."""
    labels = np.arange(count)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = labels % 256, labels // 256
    return images, labels


def batches(count=100, batch_size=10, **settings):
    settings = {"seed": 1, "stop": 30, **settings}
    dataset = training_batches(*numbered(count), batch_size=batch_size, **settings)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset]


def labels_of(batches):
    return np.concatenate([labels for _, labels in batches])


@pytest.mark.parametrize("count", [10, 97, 100, 1000])
def test_each_pass_has_every_sample_once(count):
    labels = labels_of(batches(count, stop=3 * count // 10))
    for start in range(0, len(labels) - count + 1, count):
        assert sorted(labels[start : start + count]) == list(range(count))


def test_batches_are_full_and_uint8():
    for images, labels in batches(97):
        assert images.shape == (10, 28, 28, 1)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64


def test_images_keep_their_labels():
    for images, labels in batches(300):
        pixels = images.astype(int)
        np.testing.assert_array_equal(
            pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 1, 0], labels
        )


def test_each_pass_has_its_own_order():
    labels = labels_of(batches())
    first, second = labels[:100], labels[100:200]
    assert (first != second).any()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3
    assert abs(np.corrcoef(first, np.arange(100))[0, 1]) < 0.3


def test_batches_prepared_ahead_are_the_same():
    settings = {"augmentation": AFFINE, "mixup_alpha": 0.5, "num_classes": 100}
    expected = batches(**settings)
    found = batches(**settings, ahead=tf.data.AUTOTUNE)
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def test_only_what_tensorflow_tunes_waits_for_the_thread_that_does():
    settings = {"batch_size": 10, "seed": 1, "stop": 3}
    fixed = training_batches(*numbered(30), **settings)
    assert fixed.options().autotune.enabled is False
    assert evaluation_batches(*numbered(30)).options().autotune.enabled is False
    tuned = training_batches(*numbered(30), **settings, ahead=tf.data.AUTOTUNE)
    assert tuned.options().autotune.enabled is not False


def test_the_seed_decides_the_order():
    one, same, other = (labels_of(batches(seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("augmentation", [None, AFFINE])
@pytest.mark.parametrize("start", [1, 7, 29])
def test_a_run_can_resume_at_any_step(start, augmentation):
    whole = batches(97, augmentation=augmentation)
    rest = batches(97, augmentation=augmentation, start=start)
    assert len(rest) == 30 - start
    for one, other in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_each_step_of_each_seed_has_its_own_distortions():
    # The images are all the same, so that nothing but the augmentation differs.
    images = np.zeros((10, 28, 28), np.uint8)
    images[:, 10:18, 10:18] = 255
    settings = {"batch_size": 10, "augmentation": AFFINE, "stop": 5, "replicas": 2}
    found = [
        pixels.numpy().tobytes()
        for seed in (1, 2)
        for pixels, _ in training_batches(images, np.arange(10), seed=seed, **settings)
    ]
    assert len(set(found)) == len(found) == 20


def test_replicas_divide_the_batch_of_one_device():
    whole = labels_of(batches())
    one, two = (batches(augmentation=AFFINE, replicas=count) for count in (1, 2))
    for part, (alone, divided) in enumerate(
        zip(map(list, zip(*one, strict=True)), map(list, zip(*two, strict=True)),
            strict=True)
    ):  # fmt: skip
        assert len(divided) == 2 * len(alone)
        np.testing.assert_array_equal(
            np.concatenate(alone), np.concatenate(divided), str(part)
        )
    workers = [batches(replicas=2, pipelines=2, pipeline=index) for index in (0, 1)]
    for step in range(30):
        parts = [batch[step][1] for batch in workers]
        np.testing.assert_array_equal(
            np.concatenate(parts), whole[step * 10 : step * 10 + 10]
        )


@pytest.mark.parametrize("count", [1, 499, 500, 1001])
def test_evaluation_has_every_sample_once_and_in_order(count):
    found = list(evaluation_batches(*numbered(count)))
    labels = np.concatenate([labels for _, labels in found])
    np.testing.assert_array_equal(labels, np.arange(count))
    assert all(images.shape[1:] == (28, 28, 1) for images, _ in found)


@pytest.fixture(params=[(), (3,)], ids=["greyscale", "colour"])
def mapped(request, tmp_path):
    """Images and labels, in memory and mapped from the middle of a file."""
    shape = (300, 30, 31, *request.param)
    images = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    path, start = tmp_path / "pixels", 2**21 + 5  # more than a page, not a whole one
    path.write_bytes(bytes(start) + images.tobytes())
    return images, np.memmap(path, np.uint8, "r", start, shape), np.arange(300)


def assert_same_batches(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("indices", [None, np.arange(7, 290, 3)])
def test_mapped_images_give_the_same_batches(mapped, indices):
    images, on_disk, labels = mapped
    settings = {"batch_size": 16, "seed": 1, "stop": 20, "indices": indices}
    assert_same_batches(
        training_batches(images, labels, **settings),
        training_batches(on_disk, labels, **settings),
    )
    settings = {"indices": indices, "batch_size": 64}
    assert_same_batches(
        evaluation_batches(images, labels, **settings),
        evaluation_batches(on_disk, labels, **settings),
    )


def test_a_slice_of_mapped_images_gives_the_same_batches(mapped):
    images, on_disk, labels = mapped
    for part in (slice(40, 200), slice(250, 50, -2)):
        settings = {"batch_size": 16, "seed": 1, "stop": 5}
        assert_same_batches(
            training_batches(images[part], labels[part], **settings),
            training_batches(on_disk[part], labels[part], **settings),
        )


def test_mixed_batches_have_soft_labels_and_differ_at_each_step():
    images, labels = np.full((10, 4, 4), 90, np.uint8), np.arange(10)
    settings = {"batch_size": 10, "seed": 1, "mixup_alpha": 1.0, "num_classes": 10}
    found = list(training_batches(images, labels, stop=3, **settings))
    for pixels, targets in found:
        assert (pixels.dtype, targets.dtype) == (np.uint8, np.float32)
        np.testing.assert_allclose(targets.numpy().sum(axis=1), 1, rtol=1e-6)
        assert (pixels.numpy() == 90).all()
    weights = [np.sort(targets.numpy().max(axis=1)).tobytes() for _, targets in found]
    assert len(set(weights)) == 3
    resumed = training_batches(images, labels, start=1, stop=3, **settings)
    assert_same_batches(found[1:], resumed)


def test_flips_show_each_image_and_its_mirror_image_in_turns():
    images, labels = numbered(100)
    images[:, 0, -1] = 200  # on the right of an image that is not mirrored
    found = training_batches(
        images, labels, batch_size=10, seed=1, stop=40,
        augmentation=Augmentation(flip=True),
    )  # fmt: skip
    mirrored = np.full((4, 100), -1)
    for step, (pixels, of_batch) in enumerate(found):
        mirrored[step // 10, of_batch] = pixels.numpy()[:, 0, 0, 0] == 200
    assert 35 < mirrored[0].sum() < 65
    np.testing.assert_array_equal(mirrored[1], 1 - mirrored[0])
    np.testing.assert_array_equal(mirrored[2:], mirrored[:2])


def test_the_seed_decides_which_images_are_mirrored_first():
    images, labels = numbered(100)
    images[:, 0, -1] = 200
    first = []
    for seed in (1, 2):
        found = training_batches(
            images, labels, batch_size=100, seed=seed, stop=1,
            augmentation=Augmentation(flip=True),
        )  # fmt: skip
        ((pixels, of_batch),) = found
        first.append(np.empty(100))
        first[-1][of_batch] = pixels.numpy()[:, 0, 0, 0] == 200
    assert 20 < np.sum(first[0] != first[1]) < 80


@pytest.mark.parametrize(("side", "size"), [(28, 500), (64, 375), (500, 16)])
def test_large_images_are_evaluated_in_smaller_batches(side, size):
    images = np.zeros((501, side, side), np.uint8)
    (first, _), *_ = evaluation_batches(images, np.arange(501))
    assert len(first) == size


@pytest.mark.fault
@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda x, y: (x, y[:-1]),
            "a label for each image .got 40 images and 39 labels",
        ),
        (lambda x, y: (x, y[:, None]), r"of shape \[n\] .got int64 of shape \[40, 1\]"),
        (
            lambda x, y: (x, np.eye(10)[y]),
            r"got float64 of shape \[40, 10\].; labels.arg",
        ),
        (lambda x, y: (x, y.astype(str)), "labels must be integers"),
        (lambda x, y: (x, y - 10), "labels must be at least 0 .got -"),
    ],
    ids=["too few", "a column", "one-hot", "names", "negative"],
)
def test_labels_that_do_not_fit_are_refused(change, line):
    images = np.zeros((40, 28, 28), np.uint8)
    arrays = change(images, np.arange(40) % 10)
    with pytest.raises(UserError, match=line):
        evaluation_batches(*arrays)
    with pytest.raises(UserError, match=line):
        training_batches(*arrays, batch_size=4, seed=1, stop=2)


@pytest.mark.fault
def test_indices_are_no_mask():
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    with pytest.raises(
        UserError, match=r"must be integers \(got bool\); np.flatnonzero"
    ):
        evaluation_batches(images, labels, indices=labels > 1)


@pytest.mark.fault
def test_mixup_needs_the_number_of_classes():
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    with pytest.raises(UserError, match="mixup_alpha needs num_classes"):
        training_batches(images, labels, batch_size=2, seed=1, stop=2, mixup_alpha=0.2)


def test_lists_will_do():
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    (batch,) = evaluation_batches(images.tolist(), labels.tolist())
    assert batch[0].shape == (4, 28, 28, 1)
