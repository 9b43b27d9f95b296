"""Splits: stratified by class, and decided by the seed."""

import numpy as np

from mnist_tf.data import stratified_split


class TestSplit:
    labels = np.repeat(np.arange(10), np.arange(20, 120, 10))

    def test_each_sample_is_in_one_of_the_two(self):
        train, validation = stratified_split(self.labels, 0.1, seed=1)
        assert sorted([*train, *validation]) == list(range(len(self.labels)))

    def test_each_class_gives_its_fraction(self):
        _, validation = stratified_split(self.labels, 0.1, seed=1)
        counts = np.bincount(self.labels[validation])
        assert counts.tolist() == list(range(2, 12))

    def test_the_seed_decides_it(self):
        one, same, other = (
            stratified_split(self.labels, 0.1, seed)[1].tolist() for seed in (1, 1, 2)
        )
        assert one == same != other

    def test_a_fraction_of_0_trains_on_all(self):
        train, validation = stratified_split(self.labels, 0.0, seed=1)
        assert len(train) == len(self.labels)
        assert len(validation) == 0

    def test_a_class_of_two_gives_one_and_a_class_of_one_none(self):
        _, held_out = stratified_split(np.array([0, 0, 1]), 0.1, seed=1)
        assert held_out.tolist() in ([0], [1])
