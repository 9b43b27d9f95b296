"""Distribution strategies by name; several workers are in test_several_workers.py."""

from mnist_tf.run import distribution


def test_the_runs_of_a_process_share_a_strategy():
    # TensorFlow gives the messages of another one the names of the first.
    one, other = (distribution.create("mirrored", None) for _ in range(2))
    assert one is other
