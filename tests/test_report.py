"""What the benchmark says of its figures."""

import pytest

from benchmarks import report

HOST = {
    "processor": "a processor",
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
    return {"name": "fit", "seconds": seconds, "accuracy": [0.98, 0.99], "busy": 0.0}


def test_the_bound_is_that_of_a_one_sided_t_test():
    # Worked by hand: mean 2, deviation 1, 3 values, t(2) = 2.920.
    assert report.lower_bound([1.0, 2.0, 3.0]) == pytest.approx(2 - 2.920 / 3**0.5)


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
    ours = [{"name": "trainer", "seconds": [9, 5, 5], "accuracy": [0.99]}] * 2
    theirs = [{"name": "fit", "seconds": [9, 10, 10], "accuracy": [0.99]}] * 2
    line = report._peers([*ours, *theirs]).splitlines()[-1]
    assert line.startswith("| fit | 2 | 5,400 (5,400 to 5,400) | 2.00 (2.00 to 2.00) |")
