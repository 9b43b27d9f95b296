"""Mistakes: which predictions are wrong, and which of them are the worst."""

import numpy as np

from mnist_tf.stats.mistakes import Predictions, count, find_mistakes

NAMES = ("cat", "dog", "owl")
LABELS = np.array([0, 1, 2, 2, 1, 0, 1])
IMAGES = np.arange(7, dtype=np.uint8)[:, np.newaxis, np.newaxis]  # each is its index


def found(predictions, losses, indices=None, most=16):
    indices = np.arange(7) if indices is None else np.array(indices)
    given = Predictions(np.array(predictions, np.int32), np.array(losses, np.float32))
    return find_mistakes(given, IMAGES, LABELS, indices, NAMES, most)


def test_the_confusion_matrix_counts_labels_by_row_and_predictions_by_column():
    matrix = count(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_the_worst_come_first():
    mistakes = found([0, 2, 2, 0, 1, 1, 1], [9.0, 1.0, 0.1, 3.0, 0.1, 2.0, 0.1])
    assert mistakes.images.ravel().tolist() == [3, 5, 1]
    assert mistakes.labels.tolist() == [2, 0, 1]
    assert mistakes.predictions.tolist() == [0, 1, 2]
    assert mistakes.losses.tolist() == [3.0, 2.0, 1.0]
    assert mistakes.wrong == 3
    assert mistakes.confusion.tolist() == [[1, 1, 0], [0, 2, 1], [1, 0, 1]]


def test_of_equal_losses_the_first_come_first_and_no_more_than_asked():
    mistakes = found([1, 2, 0, 0, 2, 1, 2], [2.0] * 7, most=4)
    assert mistakes.images.ravel().tolist() == [0, 1, 2, 3]
    assert mistakes.wrong == 7


def test_the_predictions_are_for_the_images_of_the_split_or_to_the_first_of_them():
    mistakes = found([0, 1], [5.0, 6.0], indices=[6, 3, 0])
    assert mistakes.images.ravel().tolist() == [3, 6]
    assert mistakes.confusion.sum() == 2


def test_there_may_be_no_mistakes():
    mistakes = found(LABELS, [0.1] * 7)
    assert (mistakes.wrong, mistakes.images.shape) == (0, (0, 1, 1))
