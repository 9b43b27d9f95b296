"""What the benchmark says of its figures."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report

HOST = {
    "processor": "a processor",
    "instructions": "avx2",
    "cores": 2,
    "memory_gib": 24,
    "python": "3.11",
    **dict.fromkeys(("tensorflow", "keras", "torch", "ai-edge-litert", "numpy"), "1.0"),
}


def recipe(name, seed, accuracy, seconds, busy=0.0):
    return {
        "name": name,
        "seed": seed,
        "accuracy": accuracy,
        "seconds": seconds,
        "trace": 1.0,
        "command": 20.0,
        "parameters": 29658,
        "busy": busy,
    }


def fit(seconds):
    return {
        "name": "fit",
        "seconds": seconds,
        "accuracy": [0.98, 0.99],
        "images": 54_000,
        "parameters": 34_826,
        "busy": 0.0,
    }


def test_the_bound_is_that_of_a_one_sided_t_test():
    # Worked by hand: mean 2, deviation 1, 3 values, t(2) = 2.920.
    assert report.lower_bound([1.0, 2.0, 3.0]) == pytest.approx(2 - 2.920 / 3**0.5)


@pytest.mark.parametrize(("count", "quantile"), [(2, 6.314), (5, 2.132), (10, 1.833)])
def test_the_bound_is_further_away_the_fewer_the_values(count, quantile):
    values = [float(value) for value in range(count)]
    error = statistics.stdev(values) / count**0.5
    bound = statistics.mean(values) - quantile * error
    assert report.lower_bound(values) == pytest.approx(bound)


def test_a_recipe_is_compared_with_the_median_fit_of_the_same_run():
    rows = [fit([50, 50]), fit([60, 60]), fit([10, 200])]
    rows += [recipe("base", seed, 0.995, 10.0) for seed in (1, 2, 3)]
    line = report._recipes(rows).splitlines()[-1]
    assert "| 99.500 ± 0.000 | 99.500 | 10.0 (10.0 to 10.0)" in line
    assert "| 12.0 | 99.50, 99.50, 99.50 |" in line


@pytest.mark.parametrize(("busy", "warned"), [(3.0, False), (40.0, True)])
def test_figures_of_a_busy_machine_say_so(busy, warned):
    rows = [fit([50, 50]), fit([50, 50])]
    rows += [recipe("base", seed, 0.995, 10.0, busy) for seed in (1, 2)]
    text = report._host({"host": HOST, "rows": rows})
    assert ("do not trust" in text) == warned
    assert f"at most {busy:.0f} %" in text


def test_our_trainer_is_compared_round_by_round_without_the_first_epoch():
    ours = [{**fit([9, 5, 5]), "name": "trainer"}] * 2
    theirs = [fit([9, 10, 10])] * 2
    line = report._peers([*ours, *theirs]).splitlines()[-1]
    assert "| 2 | 5,400 (5,400 to 5,400) | 2.00 (2.00 to 2.00) |" in line


def test_each_part_becomes_a_table(tmp_path):
    runtime = {
        "process_seconds": 0.25,
        "process_mib": 48.0,
        "milliseconds_for_one": 0.125,
        "images_per_second": 20_000.0,
    }
    differences = {"labels": 3, "probability": 2e-6}
    answers = {"name": "base", "images": 9000, "differences": differences}
    answers |= {"litert": runtime, "tensorflow": runtime}
    step = {"forward": 1.0, "gradients": 2.0, "update": 3.0, "step": 4.0, "batch": 0.5}
    step |= {"name": "--precision=float32", "convolutions": 3.0, "flop": 10**9}
    step |= {"limits": {"product": 400.0, "convolution": 500.0}}
    growth = {"name": "images", "value": 60_000, "images_per_second": 9000.0}
    growth |= {"memory_mib": 800.0, "memory_along": [790.0, 800.0]}
    repeat = {"name": "base", "arrays": 60, "same": True}
    parts = {
        "networks": ([recipe("rnn", 1, 0.993, 146.0)], "| 99.30 | 146 |"),
        "answers": ([answers], "| 0.25 | 48 | 0.125 | 20,000 | 3 of 9,000 | 2.0e-06 |"),
        # 1 GFLOP in 4 ms is 250 GFLOP/s.
        "steps": ([step], "| 4.00 | 0.50 | 3.00 | 75% | 400 | 500 | 50% |"),
        "growth": ([growth], "| images | 60000 | 9,000 | 800 | 10 |"),
        "repeat": ([repeat], "| base | 60 | True |"),
    }
    found = {
        name: {"host": HOST, "rows": [{"busy": 0.0, **row} for row in rows]}
        for name, (rows, _) in parts.items()
    }
    report.write(found, tmp_path)
    text = (tmp_path / "results.md").read_text()
    for _, line in parts.values():
        assert line in text


def test_growth_measures_a_real_run():
    flags = ["--images=300", "--batch_size=50", "--filters=4,8", "--steps=2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *flags, "--epochs=3"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert len(found["memory_along"]) == 3
    assert found["images_per_second"] > 0
    assert (
        found["parameters"]
        == 5 * 5 * 4 + 9 * 4 * 8 + 2 * 12 + 10 * (6 * 6 * 8 + 1) + 24
    )


@pytest.mark.parametrize(
    ("module", "flag", "words"),
    [
        ("benchmarks.growth", "--epochs=0", "epochs: got '0'; give a whole number"),
        ("benchmarks.peers", "--seed=x", "seed: got 'x'; give a whole number"),
        ("benchmarks.peers", "fitt", "did you mean 'fit'"),
        ("benchmarks.steps", "--recipe=fc", "recipe: got 'fc'; give one of cnn"),
    ],
)
def test_a_mistake_is_one_line(module, flag, words):
    done = subprocess.run(
        [sys.executable, "-m", module, flag],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
