"""Images get worse as the names of the changes say, and accuracy is counted."""

import numpy as np
import pytest

from mnist_tf.reports import robustness, statistics
from mnist_tf.reports.robustness import KINDS, PENS

BY_NAME = {kind.name: kind for kind in (*KINDS, *PENS)}


def changed(name, images, strength):
    before = images.copy()
    found = BY_NAME[name].change(images, strength)
    assert (images == before).all()
    assert (found.shape, found.dtype) == (images.shape, np.uint8)
    return found


@pytest.fixture
def digits(sample):
    return sample.test_images[:8]


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("shape", [(3, 28, 28), (2, 20, 31, 3)])
def test_every_change_grows_with_its_strength(name, shape):
    random = np.random.default_rng(1)
    images = np.zeros(shape, np.uint8)
    images[:, 6:16, 8:20] = random.integers(100, 255, (10, 12, *shape[3:]))
    kind = BY_NAME[name]
    found = [changed(name, images, strength) for strength in kind.strengths]
    distances = [np.abs(each - images.astype(float)).mean() for each in found]
    if name in ("shift", "rotation"):
        assert min(distances) > 1
    else:
        assert distances == sorted(distances)
        assert distances[0] > 0


def test_noise_is_the_same_each_time(digits):
    assert (changed("noise", digits, 40) == changed("noise", digits, 40)).all()


def test_a_shift_moves_without_loss(digits):
    found = changed("shift", digits, 2)
    assert (found[0, :, 2:] == digits[0, :, :-2]).all()
    assert (found[1, :, :-2] == digits[1, :, 2:]).all()
    assert (found[2, 2:] == digits[2, :-2]).all()
    assert (found[3, :-2] == digits[3, 2:]).all()


def test_contrast_keeps_the_mean(digits):
    found = changed("contrast", digits[:1], 0.25)
    assert found.mean() == pytest.approx(digits[0].mean(), abs=0.5)
    assert np.ptp(found) == pytest.approx(np.ptp(digits[0]) * 0.25, abs=1)


def test_pens_change_the_ink(digits):
    assert changed("thinner pen", digits, 0.5).sum() < digits.sum()
    assert changed("thicker pen", digits, 0.5).sum() > digits.sum()


def test_accuracy_is_counted_for_each_change():
    images = np.zeros((4, 8, 8), np.uint8)
    images[1::2, 2:6, 2:6] = 200
    done = []

    def probabilities(batch):
        bright = (batch.max(axis=(1, 2)) > 120).astype(np.float32)
        return np.stack([1 - bright, bright], axis=1)

    kind = BY_NAME["contrast"]
    found = robustness.measure(
        probabilities, images, np.arange(4) % 2, [kind], done.append
    )
    assert done == [4] * 4
    assert [each.strength for each in found] == ["", "75%", "50%", "25%", "10%"]
    values = [each.accuracy.value for each in found]
    assert values == [1, 1, 1, 0.5, 0.5]
    assert found[-1].as_dict() == {
        "kind": "contrast",
        "strength": "10%",
        "images": 4,
        "accuracy": 0.5,
        "interval": list(statistics.wilson(2, 4)),
    }


def test_of_many_images_a_few_are_chosen_evenly():
    images = np.broadcast_to(np.zeros((1, 28, 28), np.uint8), (50_000, 28, 28))
    chosen = robustness.chosen(images)
    assert (len(chosen), chosen[0], chosen[-1]) == (2000, 0, 49_999)
    assert set(np.diff(chosen)) <= {24, 25, 26}
    large = np.broadcast_to(
        np.zeros((1, 1024, 1024, 3), np.uint8), (100, 1024, 1024, 3)
    )
    assert len(robustness.chosen(large)) == 21
    assert robustness.chosen(images[:3]).tolist() == [0, 1, 2]
