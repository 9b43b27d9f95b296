"""Models side by side: what differs, figures, tables, JSON and CSV."""

import csv
import io
import json

import pytest

from mnist_tf.reports import comparison
from mnist_tf.reports.comparison import Run

SETTINGS = {"epochs": 2, "filters": [8, 16], "flip": False, "model_dir": "a"}
SAMPLE = {"name": "sample", "sha256": "0123456789abcdef"}
TEST = {"loss": 0.1, "accuracy": 0.97}
HISTORY = [{"epoch": 1, "loss": 1.0, "accuracy": 0.9}]


def run(directory="a", settings=(), description=(), **metrics):
    """A run that differs from the others in what is given."""
    measured = {
        "test": TEST,
        "parameters": 7218,
        "epochs": 2,
        "steps": 1280,
        "images_per_second": 12345.6,
        "history": HISTORY,
        "seconds": {"data": 0.25, "train": 10.0, "export": 1.0},
    }
    return Run(
        directory,
        SETTINGS | dict(settings),
        {"dataset": SAMPLE} | dict(description),
        measured | metrics,
    )


def table(*runs, width=100):
    return comparison.as_table(runs, width).splitlines()


class TestDifferences:
    def test_only_what_differs_is_listed_in_the_order_of_the_settings(self):
        runs = [run(), run(settings={"flip": True, "epochs": 3}), run()]
        assert [list(row.items()) for row in comparison.differences(runs)] == [
            [("epochs", 2), ("flip", False)],
            [("epochs", 3), ("flip", True)],
            [("epochs", 2), ("flip", False)],
        ]

    def test_a_difference_of_the_last_run_alone_counts(self):
        runs = [run(), run(), run(settings={"epochs": 3})]
        assert [row["epochs"] for row in comparison.differences(runs)] == [2, 2, 3]

    def test_runs_with_the_same_settings_do_not_differ(self):
        assert comparison.differences([run(), run()]) == [{}, {}]

    @pytest.mark.parametrize(
        "name",
        ["model_dir", "log_dir", "cache_dir", "resume", "overwrite", "publish", "keep"],
    )
    def test_where_things_are_is_no_difference(self, name):
        runs = [run(settings={name: "x"}), run(settings={name: "y"})]
        assert comparison.differences(runs) == [{}, {}]

    @pytest.mark.parametrize(
        ("part", "name"),
        [
            ("dataset", "name"),
            ("dataset", "sha256"),
            ("hardware", "processor"),
            ("hardware", "cores"),
            ("hardware", "gpus"),
            ("versions", "keras"),
        ],
    )
    def test_data_hardware_and_versions_count(self, part, name):
        runs = [run(description={part: {name: value}}) for value in ("x", "y")]
        found = [{f"{part}.{name}": "x"}, {f"{part}.{name}": "y"}]
        assert comparison.differences(runs) == found

    def test_other_facts_about_data_and_hardware_do_not(self):
        runs = [
            run(description={"hardware": {"intra_op_threads": count}})
            for count in (1, 2)
        ]
        assert comparison.differences(runs) == [{}, {}]

    def test_what_an_earlier_version_did_not_write_is_none(self):
        runs = [run(description={"versions": {"keras": "3.15"}}), run()]
        found = [{"versions.keras": "3.15"}, {"versions.keras": None}]
        assert comparison.differences(runs) == found
        assert comparison.differences(runs[::-1]) == found[::-1]
        runs[1].description["versions"] = "unknown"
        assert comparison.differences(runs) == found


class TestFigures:
    def test_they_are_those_of_metrics_json(self):
        (found,) = comparison.figures([run(validation={"loss": 0.2})])
        assert list(found.items()) == [
            ("validation_loss", 0.2),
            ("test_accuracy", 0.97),
            ("test_loss", 0.1),
            ("parameters", 7218),
            ("epochs", 2),
            ("steps", 1280),
            ("images_per_second", 12345.6),
            ("seconds_train", 10.0),
            ("seconds_total", 11.25),
        ]

    def test_every_run_has_the_metrics_of_all(self):
        runs = [run(), run(validation={"auc": 0.5} | TEST, test={})]
        first, second = comparison.figures(runs)
        names = ["validation_accuracy", "validation_loss", "validation_auc"]
        names += ["test_accuracy", "test_loss"]
        assert list(first)[:5] == list(second)[:5] == names
        assert list(first.values())[:5] == [None, None, None, 0.97, 0.1]
        assert list(second.values())[:5] == [0.97, 0.1, 0.5, None, None]


def test_data_differ_only_where_both_checksums_are_known():
    sample = run()
    mnist = run(description={"dataset": {"name": "mnist", "sha256": "ff"}})
    unknown = run(description={"dataset": {"name": "old"}})
    assert comparison.data_differ([sample, sample, mnist])
    assert not comparison.data_differ([sample, sample])
    assert not comparison.data_differ([sample, unknown])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["out", "out-fc"], ["out", "out-fc"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["/x/a/out", "/x/b/out"], ["a/out", "b/out"]),
        (["runs", "runs/b"], ["runs", "runs/b"]),
        (["/a", "/b"], ["a", "b"]),
        (["../a", "b"], ["../a", "b"]),
        (["/a", "b"], ["/a", "b"]),
        ([".", "b"], [".", "b"]),
    ],
)
def test_short_names_leave_out_the_parents_that_all_share(paths, names):
    assert comparison.short_names([run(path) for path in paths]) == names


class TestTable:
    def test_it_has_a_row_for_each_directory(self):
        faster = {"images_per_second": 23456.7, "seconds": {"train": 5.04}}
        runs = [
            run("runs/a", validation={"loss": 0.25, "accuracy": 0.5, "recall": 0.1}),
            run("runs/b-fc", settings={"epochs": 10, "filters": [8]}, **faster),
            run("runs/c", test={"loss": 0.05, "accuracy": 0.97}, parameters=99),
        ]
        assert table(*runs) == [
            "settings that differ",
            "directory  epochs  filters",
            "a               2     8,16",
            "b-fc           10        8",
            "c               2     8,16",
            "",
            "results (* is the best)",
            "           validation  validation  validation      test    test",
            "directory    accuracy        loss      recall  accuracy    loss",
            "a              50.00%      0.2500      0.1000    97.00%  0.1000",
            "b-fc                -           -           -    97.00%  0.1000",
            "c                   -           -           -    97.00%  0.0500*",
            "",
            "size and speed (* is the best)",
            "                                                 seconds  seconds",
            "directory  parameters  epochs  steps  images/s     train    total",
            "a               7,218       2  1,280    12,346      10.0     11.2",
            "b-fc            7,218       2  1,280    23,457*      5.0      5.0",
            "c                  99       2  1,280    12,346      10.0     11.2",
        ]

    def test_no_validation_is_the_best_where_its_images_differ(self):
        lines = table(
            run("a", {"seed": 1}, validation={"accuracy": 0.5}, test={"accuracy": 0.9}),
            run("b", {"seed": 2}, validation={"accuracy": 0.6}, test={"accuracy": 0.8}),
        )
        title = next(line for line in lines if line.startswith("results"))
        assert "none in validation, whose images may differ" in title
        rows = [line.split() for line in lines if "%" in line]
        assert rows == [["a", "50.00%", "90.00%*"], ["b", "60.00%", "80.00%"]]

    def test_it_says_if_no_setting_differs(self):
        lines = table(run("a"), run("b"))
        assert lines[:3] == ["no setting differs", "", "results (* is the best)"]

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_the_best_is_the_most_accurate_the_least_loss_the_fastest(self, split):
        better = {"loss": 0.05, "accuracy": 0.98, "recall": 1.0}
        worse = {"loss": 0.15, "accuracy": 0.96, "recall": 0.1}
        runs = [
            run("a", **{split: worse}, images_per_second=1),
            run("b", **{split: better}, images_per_second=3),
            run("c", **{split: better}, images_per_second=2),
        ]
        marked = [line.split() for line in table(*runs) if "*" in line]
        cells = ["98.00%*", "0.0500*", "1.0000"]
        assert [row[0] for row in marked] == ["results", "b", "c", "size", "b"]
        for row in (marked[1], marked[2]):
            first = row.index("98.00%*")
            assert row[first : first + 3] == cells
        assert [cell for cell in marked[4] if "*" in cell] == ["3*"]

    def test_neither_equals_nor_one_alone_are_the_best(self):
        lines = table(run("a", validation=TEST), run("b"))
        assert not any("*" in line for line in lines if "(*" not in line)

    def test_settings_are_written_as_on_the_command_line(self):
        values = [True, False, "", "x", [1, 2], 0.001, None]
        runs = [run(str(i), {"new": value}) for i, value in enumerate(values)]
        shown = [line.split()[1] for line in table(*runs)[2:9]]
        assert shown == ["true", "false", "''", "x", "1,2", "0.001", "-"]

    def test_checksums_are_short_and_parts_of_config_json_have_two_lines(self):
        other = {"dataset": {"name": "mnist", "sha256": "fedcba9876543210"}}
        assert table(run("a"), run("b", description=other))[:5] == [
            "settings that differ",
            "           dataset       dataset",
            "directory     name        sha256",
            "a           sample  0123456789ab",
            "b            mnist  fedcba987654",
        ]

    def test_columns_that_do_not_fit_follow_below(self):
        runs = [run(f"runs/{i}", validation=TEST) for i in range(20)]
        wide, narrow = table(*runs, width=100), table(*runs, width=40)
        assert wide.count("") == 2
        assert len(wide) == 1 + 2 * (1 + 1 + 2 + 20)
        assert max(map(len, narrow)) <= 40
        heads = [line.split()[1:] for line in narrow if line.startswith("directory")]
        assert heads == [
            ["accuracy", "loss"],
            ["accuracy", "loss"],
            ["parameters", "epochs", "steps"],
            ["images/s", "train", "total"],
        ]
        for name in ("0", "19"):
            assert len([row for row in narrow if row.split()[:1] == [name]]) == 4

    def test_a_column_fits_exactly(self):
        lines = table(run("a"), run("b"), width=64)
        assert max(map(len, lines)) == 64
        assert lines.count("") == 2
        assert table(run("a"), run("b"), width=63).count("") == 3

    def test_names_that_leave_no_room_have_one_column_beside_them(self):
        lines = table(run("a" * 90), run("b" * 90), width=80)
        heads = [line.split()[1:] for line in lines if line.startswith("directory")]
        assert heads[:3] == [["accuracy"], ["loss"], ["parameters"]]


RUNS = [
    run("runs/a", settings={"filters": [8], "flip": True}, validation=TEST),
    run('runs/"b", ü'),
]


def test_json_has_an_object_and_a_line_for_each_directory():
    text = comparison.as_json(RUNS)
    assert "ü" in text
    assert len(text.splitlines()) == 4
    first, second = json.loads(text)
    assert first == {
        "directory": "runs/a",
        "settings": {"filters": [8], "flip": True},
        "figures": comparison.figures(RUNS)[0],
    }
    assert second["directory"] == 'runs/"b", ü'
    assert second["figures"]["validation_loss"] is None


def test_csv_has_a_row_for_each_directory_and_the_columns_of_the_json():
    text = comparison.as_csv(RUNS)
    assert not text.endswith("\n")
    first, second = csv.DictReader(io.StringIO(text))
    parsed = json.loads(comparison.as_json(RUNS))
    paths = ["directory"]
    for part in ("settings", "figures"):
        paths += [f"{part}.{name}" for name in parsed[0][part]]
    assert list(first) == paths
    assert (first["directory"], second["directory"]) == ("runs/a", 'runs/"b", ü')
    assert [first["settings.filters"], first["settings.flip"]] == ["8", "true"]
    assert second["settings.filters"] == "8,16"
    assert first["figures.validation_loss"] == "0.1"
    assert second["figures.validation_loss"] == ""
    assert second["figures.seconds_total"] == "11.25"
