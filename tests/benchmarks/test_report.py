"""The tables of the benchmark, and the command lines of its modules."""

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


def test_the_lower_bound_is_that_of_a_one_sided_t_test():
    # Worked by hand: mean 2, deviation 1, 3 values, t(2) = 2.920.
    assert report.lower_bound([1.0, 2.0, 3.0]) == pytest.approx(2 - 2.920 / 3**0.5)


@pytest.mark.parametrize(("count", "quantile"), [(2, 6.314), (5, 2.132), (10, 1.833)])
def test_the_lower_bound_is_lower_with_fewer_values(count, quantile):
    values = [float(value) for value in range(count)]
    error = statistics.stdev(values) / count**0.5
    bound = statistics.mean(values) - quantile * error
    assert report.lower_bound(values) == pytest.approx(bound)


def test_a_recipe_is_compared_with_the_median_fit():
    rows = [fit([50, 50]), fit([60, 60]), fit([10, 200])]
    rows += [recipe("base", seed, 0.995, 10.0) for seed in (1, 2, 3)]
    line = report._recipes(rows).splitlines()[-1]
    assert "| 99.500 ± 0.000 | 99.500 | 10.0 (10.0 to 10.0)" in line
    assert "| 12.0 | 99.50, 99.50, 99.50 |" in line


@pytest.mark.parametrize(("busy", "warns"), [(3.0, False), (40.0, True)])
def test_the_report_warns_if_the_machine_was_busy(busy, warns):
    rows = [fit([50, 50]), fit([50, 50])]
    rows += [recipe("base", seed, 0.995, 10.0, busy) for seed in (1, 2)]
    text = report._host({"host": HOST, "rows": rows})
    assert ("do not trust" in text) == warns
    assert f"at most {busy:.0f}%" in text


def test_the_first_epoch_is_not_counted_when_peers_are_compared():
    ours = [{**fit([9, 5, 5]), "name": "trainer"}] * 2
    theirs = [fit([9, 10, 10])] * 2
    line = report._peers([*ours, *theirs]).splitlines()[-1]
    assert "| 2 | 5,400 (5,400 to 5,400) | 2.00 (2.00 to 2.00) |" in line


def test_each_part_has_a_table(tmp_path):
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
    step |= {
        "name": "--precision=float32",
        "convolutions": 3.0,
        "batch_size": 256,
        "flop": 10**9,
    }
    step |= {"limits": {"product": 400.0, "convolution": 500.0}}
    growth = {"name": "images", "value": 60_000, "images_per_second": 9000.0}
    growth |= {"memory_mib": 800.0, "memory_along": [790.0, 800.0]}
    saves = [
        {"name": name, "seed": 0, "train": 50.0, key: seconds}
        for name, key, seconds in [("0", "actions", 0.5), ("5", "callbacks", 1.0)]
    ]
    repeat = {"name": "base", "arrays": 60, "same": True}
    plain = [
        recipe("base", seed, accuracy, 9.0)
        for seed, accuracy in ((1, 0.995), (2, 0.994))
    ]
    parts = {
        "plain": (plain, "| base | 2 | 99.450 | 99.50, 99.40 |"),
        "networks": ([recipe("rnn", 1, 0.993, 146.0)], "| 99.30 | 146 |"),
        "answers": ([answers], "| 0.25 | 48 | 0.125 | 20,000 | 3 of 9,000 | 2.0e-06 |"),
        # 1 GFLOP in 4 ms is 250 GFLOP/s.
        "steps": ([step], "| 4.00 | 0.50 | 3.00 | 75% | 400 | 500 | 50% |"),
        "growth": ([growth], "| images | 60000 | 9,000 | 800 | 10 |"),
        "saves": (saves, "| 50.0 (50.0 to 50.0) | 1.00 (1.00 to 1.00) | 1.0% |"),
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


def test_growth_measures_a_run():
    flags = ["--images=300", "--batch_size=50", "--filters=4,8", "--steps=2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *flags, "--epochs=3"],
        cwd=Path(__file__).parents[2],
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
    ("module", "flag", "message"),
    [
        ("growth", "--epochs=0", "--epochs must be a positive integer (got '0')"),
        ("growth", "--filters=8,x", "--filters must be a comma-separated list of"),
        ("growth", "--batch_size=51", "--batch_size must be a multiple of 2 (got 51)"),
        ("peers", "--seed=x", "--seed must be a non-negative integer (got 'x')"),
        ("peers", "fitt", "did you mean 'fit'"),
        ("steps", "--recipe=fc", "--recipe must be one whose model is cnn (got 'fc')"),
        ("mutants", "--count=0", "--count must be a positive integer (got '0')"),
        ("torture", "--kills=-1", "--kills must be a non-negative integer (got '-1')"),
        ("__main__", "--parts=step", "did you mean 'steps'"),
    ],
)
def test_an_error_is_one_line(module, flag, message):
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", flag],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
