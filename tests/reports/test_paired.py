"""Two models on the same images: the figures, the text and the command."""

import json
import shutil

import numpy as np
import pytest

from mnist_tf.cli import evaluate
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor
from mnist_tf.reports import paired, statistics
from tests.test_artifact import rewrite

NAMES = ("cat", "dog", "eel")
LABELS = np.array([0, 0, 0, 0, 1, 1])
FIRST = np.array([0, 0, 0, 1, 1, 0])
SECOND = np.array([0, 1, 1, 0, 1, 0])


@pytest.fixture
def found():
    return paired.compare("old", LABELS, FIRST, SECOND, 3)


def test_it_agrees_with_values_computed_by_hand(found):
    assert (found.accuracy, found.other_accuracy) == (4 / 6, 3 / 6)
    assert found.only_first.tolist() == [1, 2]
    assert found.only_second.tolist() == [3]
    assert found.whole == statistics.difference(FIRST == LABELS, SECOND == LABELS)
    assert found.whole.p == 1
    cats, dogs, eels = found.classes
    assert (cats.only_first, cats.only_second, cats.images) == (2, 1, 4)
    assert (dogs.value, dogs.images) == (0, 2)
    assert eels is None


def test_the_text_says_what_may_be_claimed(found):
    lines = paired.as_text([found], NAMES).splitlines()
    assert " ".join(lines[0].split()) == (
        "against accuracy difference 95% interval p (McNemar) only this only other"
    )
    assert lines[1].startswith("old        50.00%     +16.67%")
    assert lines[3] == "against old: no difference may be claimed"
    assert [line.split()[0] for line in lines[5:7]] == ["cat", "dog"]
    assert lines[7:] == [
        "only the model is correct    1, 2",
        "only the other is correct    3",
    ]


@pytest.mark.parametrize("better", [True, False])
def test_a_difference_is_claimed_where_chance_is_unlikely(better):
    labels = np.zeros(40, int)
    predictions = np.array([0] * 40), np.array([0] * 30 + [1] * 10)
    first, second = predictions if better else predictions[::-1]
    found = paired.compare("old", labels, first, second, 2)
    assert found.whole.p == pytest.approx(2 / 2**10)
    word = "more" if better else "less"
    assert found.verdict == f"the model is correct {word} often than old"


def test_of_many_images_the_first_twenty_are_listed():
    labels = np.zeros(50, int)
    found = paired.compare("old", labels, labels, labels + 1, 2)
    last = paired.as_text([found], NAMES[:2]).splitlines()[-2:]
    assert last[0].endswith("17, 18, 19 and 30 more")
    assert last[1] == "only the other is correct    nowhere"


@pytest.fixture
def models(trained, tmp_path, monkeypatch):
    """The folder with the model and another that confuses classes."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained[1] / "out", "new", ignore=lambda *_: ["checkpoints"])
    shutil.copytree("new", "old")
    probabilities = Predictor.probabilities

    def worse(self, images):
        found = probabilities(self, images)
        if self.artifact.path.name == "old":
            found[:, [3, 5]] = found[:, [5, 3]]
        return found

    monkeypatch.setattr(Predictor, "probabilities", worse)
    return tmp_path


def test_models_are_compared_on_the_same_images(models, capsys):
    evaluate.main(["evaluate", "--model_dir=new"])
    table = capsys.readouterr().out
    evaluate.main(["evaluate", "--model_dir=new", "--against=old/", "--report=report"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"{table}\nagainst")
    assert "against old: the model is correct more often than old" in shown
    figures = json.loads((models / "report" / "report.json").read_text())
    (old,) = figures["against"]
    assert old["model_dir"] == "old"
    difference = figures["accuracy"]["value"] - old["accuracy"]
    assert old["difference"] == pytest.approx(difference)
    assert len(old["only_this"]) == old["only_this_correct"] > 90
    html = (models / "report" / "index.html").read_text("utf-8")
    assert "Against old: the model is correct more often than old" in html
    assert "labelled 3, predicted 3 by this model and 5 by the other" in html


def test_a_model_does_not_differ_from_its_copy(models, capsys):
    shutil.copytree("new", "copy")
    flags = ["--against=copy", "--against=old"]
    evaluate.main(["evaluate", "--model_dir=new", *flags])
    shown = capsys.readouterr().out
    assert "against copy: no difference may be claimed" in shown
    assert "only the model is correct    nowhere" in shown
    assert "against old: the model" in shown


@pytest.mark.fault
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            {"dataset": {"name": "sample", "labels": list("abcdefghij")}},
            "--against old has the labels a, b, c, d, e, f, g, h, i, j, but",
        ),
        (
            {
                "preprocessing": {
                    "method": "photo",
                    "height": 28,
                    "width": 28,
                    "color": "grayscale",
                    "resize": "pad",
                }
            },
            "--against old sees other images (",
        ),
    ],
    ids=["labels", "input"],
)
def test_models_of_other_images_are_refused(models, edit, words):
    rewrite(models / "old" / "config.json", lambda content: content | edit)
    with pytest.raises(UserError) as caught:
        evaluate.main(["evaluate", "--model_dir=new", "--against=old"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--against=new/", "--against new is the same directory as --model_dir; give"),
        ("--against=", "--against must be a path (got '')"),
        ("--against=nowhere", "--against nowhere does not exist; train a model there"),
    ],
)
def test_a_wrong_flag_is_an_error(models, flag, words):
    with pytest.raises(UserError) as caught:
        evaluate.main(["evaluate", "--model_dir=new", flag])
    assert words in str(caught.value)
