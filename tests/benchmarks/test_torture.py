"""A run that is killed and resumed ends with the same bits; `make torture` in short."""

import random

import pytest

from benchmarks import torture


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = torture.Run(tmp_path_factory.mktemp("uninterrupted"), epochs=8)
    run.finish()
    return run


@pytest.mark.parametrize(
    ("end", "moments"),
    [
        (torture.kill, ("train", "start", "save", "end")),
        (torture.terminate, ("train", "end")),
    ],
    ids=["SIGKILL", "SIGTERM"],
)
def test_an_interrupted_run_ends_with_the_same_bits(
    uninterrupted, tmp_path, end, moments
):
    run, generator = torture.Run(tmp_path, uninterrupted.epochs), random.Random(7)
    for moment in moments:
        end(run, moment, generator)
    run.finish()
    torture.compare(run, uninterrupted)
    for name in ("model.weights.h5", "model.tflite"):
        expected = (uninterrupted.out / name).read_bytes()
        assert (run.out / name).read_bytes() == expected
