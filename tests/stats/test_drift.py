"""Figures of images, histograms and their distance, beside values by hand and NumPy."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mnist_tf.stats import drift

IMAGES = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    elements=st.integers(0, 255),
)


def of(image):
    """The figures of one image."""
    found = drift.figures(np.asarray(image, np.uint8)[np.newaxis])
    return {name: values.item() for name, values in found.items()}


def framed(inner, outer, size=6):
    """A square of one brightness in the middle of another: a ninth of the pixels."""
    image = np.full((size, size), outer, np.uint8)
    image[2:4, 2:4] = inner
    return image


class TestFigures:
    def test_they_agree_with_values_computed_by_hand(self):
        found = of(framed(255, 0))
        assert found["mean"] == pytest.approx(1 / 9)
        assert found["contrast"] == pytest.approx(math.sqrt(1 / 9 * 8 / 9))
        assert found["ink"] == pytest.approx(1 / 9)

    def test_ink_and_contrast_are_those_of_the_inverted_image(self):
        light, dark = of(framed(255, 0)), of(framed(0, 255))
        assert dark["ink"] == light["ink"]
        assert dark["contrast"] == pytest.approx(light["contrast"])
        assert dark["mean"] == pytest.approx(8 / 9)

    @pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
    def test_a_blank_image_has_neither_contrast_nor_ink(self, level):
        found = of(np.full((28, 28), level))
        assert found == {
            "mean": pytest.approx(level / 255),
            "contrast": 0,
            "ink": 0,
        }

    @pytest.mark.parametrize(
        ("inner", "outer", "is_ink"),
        [
            (64, 0, False),
            (65, 0, True),
            (164, 100, False),
            (165, 100, True),
            (36, 100, False),
            (35, 100, True),
            (255, 200, False),
            (0, 60, False),
        ],
    )
    def test_ink_is_more_than_a_quarter_of_the_range_from_the_background(
        self, inner, outer, is_ink
    ):
        assert (of(framed(inner, outer))["ink"] > 0) == is_ink

    @pytest.mark.parametrize(("pen", "paper"), [(255, 0), (0, 255)])
    def test_the_background_is_that_of_most_outermost_pixels(self, pen, paper):
        image = framed(pen, paper)
        image[0, :] = pen  # a stroke that leaves the image
        assert of(image)["ink"] == pytest.approx((4 + 6) / 36)

    @given(IMAGES)
    def test_they_are_what_numpy_says_of_each_image(self, images):
        found = drift.figures(images)
        flat = images.reshape(len(images), -1) / 255
        assert found["mean"] == pytest.approx(flat.mean(axis=1), abs=1e-6)
        assert found["contrast"] == pytest.approx(flat.std(axis=1), abs=1e-4)
        for values in found.values():
            assert values.dtype == np.float64
            assert ((values >= 0) & (values <= 1)).all()

    @given(IMAGES)
    def test_of_colour_the_mean_of_the_channels_counts(self, images):
        grey = np.repeat(images[..., np.newaxis], 3, axis=-1)
        coloured = np.zeros_like(grey)
        coloured[..., 2] = images  # a third as bright
        for name, values in drift.figures(images).items():
            assert drift.figures(grey)[name].tolist() == values.tolist()
        for name, values in drift.figures(images // 3).items():
            assert drift.figures(coloured)[name].tolist() == values.tolist()

    def test_many_images_are_measured_like_each_of_them(self, sample):
        images = sample.test_images[:300]
        whole = drift.figures(images)
        for index in range(0, 300, 37):
            assert of(images[index]) == {
                name: values[index] for name, values in whole.items()
            }

    def test_of_no_images_there_are_none(self):
        found = drift.figures(np.zeros((0, 28, 28), np.uint8))
        assert [len(values) for values in found.values()] == [0, 0, 0]

    def test_the_top_probability_is_at_most_1(self):
        rows = np.array([[0.25, 0.75], [np.nextafter(np.float32(1), np.float32(2)), 0]])
        assert drift.top_probability(rows.astype(np.float32)).tolist() == [0.75, 1]


class TestHistogram:
    def test_each_bin_holds_a_tenth(self):
        values = np.random.default_rng(1).beta(2, 5, 10_000)
        found = drift.histogram(values)
        assert len(found.edges) == 9
        assert sum(found.images) == 10_000
        assert min(found.images) > 900
        assert max(found.images) < 1100
        assert found.sum == pytest.approx(values.sum())

    def test_a_bin_includes_its_upper_end(self):
        found = drift.counts((0.25, 0.5), np.array([0.0, 0.25, 0.2501, 0.5, 0.75]))
        assert found.tolist() == [2, 2, 1]
        assert drift.counts((0.25, 0.5), np.array([])).tolist() == [0, 0, 0]

    @pytest.mark.parametrize(
        ("value", "edges", "images"),
        [
            (0.0, (0.0,), (9, 0)),
            (0.07, (0.0699, 0.07), (0, 9, 0)),
            (0.50003, (0.5, 0.5001), (0, 9, 0)),
            (1.0, (0.9999,), (0, 9)),
        ],
    )
    def test_a_value_that_all_images_share_has_its_own_bin(self, value, edges, images):
        found = drift.histogram(np.full(9, value))
        assert (found.edges, found.images) == (edges, images)

    def test_a_value_that_some_images_share_has_its_own_bin(self):
        values = np.concatenate([np.full(500, 0.3), np.linspace(0.4, 0.8, 500)])
        found = drift.histogram(values)
        assert found.edges[:2] == (0.2999, 0.3)
        assert found.images[:2] == (0, 500)

    def test_the_last_bits_of_a_value_do_not_move_it_to_another_bin(self):
        values = np.tile([0.2, 0.4, 0.6, 1.0], 50)
        found = drift.histogram(values)
        noise = np.random.default_rng(2).uniform(-1e-6, 0, 200)
        assert drift.counts(found.edges, values + noise).tolist() == list(found.images)

    @given(arrays.arrays(np.float64, st.integers(1, 50), elements=st.floats(0, 1)))
    def test_any_values_give_a_histogram_that_can_be_written_and_read(self, values):
        found = {name: drift.histogram(values) for name in drift.FEATURES}
        content = json.loads(json.dumps(drift.to_json(found)))
        assert drift.from_json(content) == found
        assert sum(found["ink"].images) == len(values)


class TestPopulationStabilityIndex:
    def test_it_agrees_with_a_value_computed_by_hand(self):
        found = drift.population_stability_index([50, 50], [75, 25])
        assert found == pytest.approx(
            0.25 * math.log(0.75 / 0.5) - 0.25 * math.log(0.25 / 0.5)
        )

    @given(st.lists(st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1))
    def test_it_is_the_published_sum(self, pairs):
        expected, actual = zip(*pairs, strict=True)
        shares = [[n / sum(part) for n in part] for part in (expected, actual)]
        terms = [(a - e) * math.log(a / e) for e, a in zip(*shares, strict=True)]
        found = drift.population_stability_index(expected, actual)
        # Smaller shares are counted as the smallest one.
        if min(map(min, shares)) >= drift.SMALLEST_SHARE:
            assert found == pytest.approx(math.fsum(terms), abs=1e-12)
        assert found >= 0
        swapped = drift.population_stability_index(actual, expected)
        assert swapped == pytest.approx(found, abs=1e-12)
        assert drift.population_stability_index(expected, expected) == 0

    def test_an_empty_bin_counts_as_one_image_of_ten_thousand(self):
        found = drift.population_stability_index([1, 1], [1, 0])
        expected = 0.5 * math.log(2) + (1e-4 - 0.5) * math.log(1e-4 / 0.5)
        assert found == pytest.approx(expected)
        assert drift.population_stability_index([0, 1, 0], [0, 5, 0]) == 0

    @pytest.mark.parametrize(("n", "m"), [(200, 10_000), (1000, 10_000), (1000, 450)])
    def test_without_drift_it_is_as_large_as_yurdakul_says(self, n, m):
        random = np.random.default_rng(3)
        found = [
            drift.population_stability_index(
                random.multinomial(m, [0.1] * 10), random.multinomial(n, [0.1] * 10)
            )
            for _ in range(2000)
        ]
        # The mean and the 95th percentile of chi-squared with 9 degrees of freedom.
        noise = 1 / n + 1 / m
        assert np.mean(found) == pytest.approx(9 * noise, rel=0.1)
        assert np.quantile(found, 0.95) == pytest.approx(16.92 * noise, rel=0.1)

    @pytest.mark.parametrize("pair", [([0, 0], [1, 1]), ([1, 1], [0, 0])])
    def test_a_histogram_without_images_is_an_error(self, pair):
        with pytest.raises(ValueError, match="a histogram has no image"):
            drift.population_stability_index(*pair)

    def test_histograms_of_other_bins_are_an_error(self):
        with pytest.raises(ValueError, match="got 2 and 1 bins; they must be the same"):
            drift.population_stability_index([1, 1], [1])


class TestReference:
    def test_images_and_predictions_may_be_different_ones(self, sample):
        probabilities = np.full((7, 4), 0.25, np.float32)
        found = drift.reference(sample.test_images[:50], probabilities)
        assert found.keys() == set(drift.FEATURES)
        totals = [sum(found[name].images) for name in drift.FEATURES]
        assert totals == [50, 50, 50, 7]

    def test_other_images_of_the_same_kind_are_close_and_others_far(self, sample):
        known = drift.reference(sample.train_images, np.ones((1, 2)))

        def distances(images):
            return {
                name: drift.population_stability_index(
                    known[name].images, drift.counts(known[name].edges, values)
                )
                for name, values in drift.figures(images).items()
            }

        assert max(distances(sample.test_images).values()) < 0.1
        assert distances(255 - sample.test_images)["mean"] > 0.25
        noise = np.random.default_rng(4).integers(0, 256, (500, 28, 28), np.uint8)
        assert min(distances(noise).values()) > 0.25
        assert min(distances(np.zeros((500, 28, 28), np.uint8)).values()) > 0.25


@pytest.mark.fault
@pytest.mark.parametrize(
    "change",
    [
        {"edges": None},
        {"edges": ["0.5"]},
        {"edges": [True]},
        {"edges": [0.5, 0.5], "images": [1, 1, 1]},
        {"edges": [0.6, 0.5], "images": [1, 1, 1]},
        {"edges": [-0.5]},
        {"edges": [1.0]},
        {"edges": [math.nan]},
        {"images": [1]},
        {"images": [1, 1, 1]},
        {"images": [1, -1]},
        {"images": [1, 0.5]},
        {"images": [0, 0], "sum": 0},
        {"images": [10**400, 1]},
        {"images": 1},
        {"sum": "1"},
        {"sum": -1},
        {"sum": 3},
        {"sum": math.nan},
    ],
)
def test_a_damaged_histogram_is_an_error(change):
    good = {"edges": [0.5], "images": [1, 1], "sum": 1.0}
    content = {name: dict(good) for name in drift.FEATURES}
    assert drift.from_json(content)["ink"] == drift.Histogram((0.5,), (1, 1), 1.0)
    content["ink"].update(change)
    with pytest.raises((ValueError, TypeError)):
        drift.from_json(content)


@pytest.mark.fault
@pytest.mark.parametrize("missing", drift.FEATURES)
def test_a_histogram_that_is_missing_is_an_error(missing):
    good = {"edges": [0.5], "images": [1, 1], "sum": 1.0}
    content = {name: good for name in drift.FEATURES if name != missing}
    with pytest.raises(KeyError, match=missing):
        drift.from_json(content)
