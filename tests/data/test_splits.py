"""Splits: stratified by class, and decided by the seed."""

import numpy as np
import pytest

from mnist_tf.data import stratified_split
from mnist_tf.data.splits import stable_split


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

    def test_a_class_of_one_keeps_it_however_large_the_fraction(self):
        train, held_out = stratified_split(np.array([0, 0, 0, 0, 1]), 0.6, seed=1)
        assert 4 in train
        assert len(held_out) == 2


class TestStableSplit:
    labels = np.repeat([0, 1], 50)
    names = tuple(f"{label}/{index}.png" for label in (0, 1) for index in range(50))

    def held_out(self, names):
        labels = np.array([int(name[0]) for name in names])
        train, apart = stable_split(labels, names, 0.1)
        assert sorted([*train, *apart]) == list(range(len(names)))
        return {names[index] for index in apart}

    def test_each_class_gives_its_fraction(self):
        held_out = self.held_out(self.names)
        assert [sum(name[0] == label for name in held_out) for label in "01"] == [5, 5]

    def test_the_order_does_not_matter(self):
        assert self.held_out(self.names) == self.held_out(self.names[::-1])

    @pytest.mark.parametrize("added", [f"1/new-{index}.png" for index in range(20)])
    def test_a_new_sample_changes_the_place_of_at_most_one_other(self, added):
        before, after = self.held_out(self.names), self.held_out((*self.names, added))
        assert len(before - after) <= 1
        assert after - before <= {added} | set(self.names)
        assert len((after - before) - {added}) <= 1
