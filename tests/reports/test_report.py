"""The report of a model: its files, what they say, and the page in a real browser."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mnist_tf.cli import evaluate
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor
from mnist_tf.reports import report
from tests.conftest import ROOT, contents, small_disk


@pytest.fixture(scope="module")
def reported(trained, tmp_path_factory):
    """The finished process and the folder of one report."""
    folder = tmp_path_factory.mktemp("reported") / "report"
    out = trained[1] / "out"
    code = (
        "import sys; from mnist_tf.cli import evaluate; evaluate.main(sys.argv); "
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, f"--model_dir={out}", f"--report={folder}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done, folder


@pytest.fixture(scope="module")
def figures(reported):
    return json.loads((reported[1] / "report.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def html(reported):
    return (reported[1] / "index.html").read_text("utf-8")


@pytest.fixture
def evaluated(trained, tmp_path, monkeypatch):
    """Calls the command in a folder of its own, with the trained model."""
    monkeypatch.chdir(tmp_path)
    out = trained[1] / "out"
    return lambda *flags: evaluate.main(["evaluate", f"--model_dir={out}", *flags])


def test_the_table_is_printed_as_without_a_report(reported, trained, capsys):
    evaluate.main(["evaluate", f"--model_dir={trained[1] / 'out'}"])
    assert reported[0].stdout == capsys.readouterr().out
    assert "the report is in" in reported[0].stderr


def test_the_folder_has_the_page_the_plots_and_the_figures(reported):
    names = sorted(path.name for path in reported[1].iterdir())
    assert names == sorted(report.NAMES)
    for path in reported[1].glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
            assert min(picture.size) > 500
    # Nothing else is beside it.
    assert [path.name for path in reported[1].parent.iterdir()] == ["report"]


def test_predictions_csv_has_a_row_for_each_image(reported, trained, sample):
    probabilities = Predictor(trained[1] / "out").probabilities(sample.test_images)
    with (reported[1] / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(500))
    assert [int(row["label"]) for row in rows] == sample.test_labels.tolist()
    assert [int(row["prediction"]) for row in rows] == probabilities.argmax(1).tolist()
    written = [[float(row[f"probability_{k}"]) for k in range(10)] for row in rows]
    assert np.array(written) == pytest.approx(probabilities, abs=1e-5)
    of_label = probabilities[np.arange(500), sample.test_labels]
    losses = [float(row["loss"]) for row in rows]
    assert losses == pytest.approx(-np.log(of_label), rel=1e-4)


def test_report_json_agrees_with_training(figures, trained):
    test = json.loads((trained[1] / "out" / "metrics.json").read_text())["test"]
    assert figures["accuracy"]["value"] == pytest.approx(test["accuracy"])
    assert figures["loss"] == pytest.approx(test["loss"], rel=1e-3)
    assert (figures["dataset"], figures["split"]) == ("sample", "test")
    assert np.array(figures["confusion"]).sum() == 500
    low, high = figures["accuracy"]["interval"]
    assert low < figures["accuracy"]["value"] < high
    after = figures["calibration"]["after"]
    before = figures["calibration"]["before"]
    name = "negative_log_likelihood"
    # Training has calibrated it already.
    assert after[name] == pytest.approx(before[name], rel=0.25)


def test_suspicious_labels_are_the_wrong_predictions(figures):
    listed = figures["suspicious_labels"]
    assert len(listed) == round(500 * (1 - figures["accuracy"]["value"]))
    for one in listed:
        assert set(one) == {"index", "label", "prediction", "score"}
        assert one["label"] != one["prediction"]
    scores = [one["score"] for one in listed]
    assert scores == sorted(scores, reverse=True)


def test_the_thresholds_hold_for_predict(figures, trained, sample):
    predictor = Predictor(trained[1] / "out")
    for row in figures["rejection"]:
        found = predictor.predict(
            sample.test_images,
            reject_below=row["reject_below"] or 0.0,
            reject_atypical=0,
        )
        correct = [
            each.label == str(label)
            for each, label in zip(found, sample.test_labels, strict=True)
            if each.label is not None
        ]
        assert np.mean(correct) >= row["target"]
        assert len(correct) / 500 == row["coverage"]


def test_every_picture_of_the_page_is_in_it_and_has_a_text(html, sample):
    pictures = re.findall(
        r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', html
    )
    assert len(pictures) == html.count("<img")
    shown = {}
    for content, text in pictures:
        if number := re.match(r"Image (\d+): labelled (\d), predicted \d", text):
            shown[int(number[1])] = content
            assert sample.test_labels[int(number[1])] == int(number[2])
    index, content = next(iter(shown.items()))
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert (picture == sample.test_images[index]).all()
    assert len(html) < 2**20


def test_names_and_folders_cannot_break_the_page(tmp_path):
    names = ("<script>alert(1)</script>", "$x^2$ & ünïcödé “quoted” " + "long " * 20)
    images = np.zeros((9, 40, 100, 3), np.uint8)
    images[:, :, :, 0] = np.arange(9)[:, np.newaxis, np.newaxis]
    labels = np.arange(9) % 2

    def probabilities(batch):
        share = batch[:, 0, 0, 0] / np.float32(10)
        return np.stack([share, 1 - share], axis=1)

    found = report.find(tmp_path, probabilities, images, labels, names, lambda _: None)
    about = {"model_dir": "<b>out", "dataset": "custom", "split": "test"}
    report.write(tmp_path, found, images, about)
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "<script" not in text
    assert "<b>out" not in text
    first, *_ = re.findall(r'base64,([^"]+)" alt="Image', text)
    with Image.open(io.BytesIO(base64.b64decode(first))) as picture:
        assert (picture.size, picture.mode) == ((56, 22), "RGB")
    with (tmp_path / "predictions.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["label"] == names[0]


def test_many_classes_have_a_plot_and_a_list_of_confusions(tmp_path):
    names = tuple(f"kind {number}" for number in range(40))
    labels = np.arange(400) % 40
    predictions = np.where(np.arange(400) % 7, labels, (labels + 3) % 40)

    def probabilities(batch):
        return (np.eye(40, dtype=np.float32) * 0.9 + 0.0025)[
            predictions[batch[:, 0, 0]]
        ]

    numbers = np.arange(400, dtype=np.uint16)[:, np.newaxis, np.newaxis]
    images = np.broadcast_to(numbers, (400, 4, 4))
    found = report.find(tmp_path, probabilities, images, labels, names, lambda _: None)
    about = {"model_dir": "out", "dataset": "custom", "split": "test"}
    report.write(tmp_path, found, images.astype(np.uint8), about)
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "Heat map of the confusion matrix of 40 classes" in text
    assert "kind 0 → kind 3: " in text
    assert text.count('class="matrix"') == 0


@pytest.mark.parametrize(
    ("probabilities", "labels", "words"),
    [
        ([[0.2, 0.7, 0.1]], [0], "none reaches it"),
        ([[1.0, 0.0, 0.0]] * 3, [0, 1, 1], "33.33% accuracy"),
        (np.eye(3)[[0, 1, 1]], [0, 1, 1], "No prediction is wrong."),
    ],
    ids=["one wrong image", "always the same", "always correct"],
)
def test_few_images_make_a_page(tmp_path, probabilities, labels, words):
    table = np.array(probabilities, np.float32)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    arguments = np.array(labels), ("cat", "dog", "eel"), lambda _: None
    found = report.find(tmp_path, lambda batch: table[: len(batch)], images, *arguments)
    about = {"model_dir": "out", "dataset": "custom", "split": "test"}
    report.write(tmp_path, found, images, about)
    text = (tmp_path / "index.html").read_text("utf-8")
    assert words in text
    assert "nan%" not in text


def test_memory_hardly_grows_with_the_number_of_images(tmp_path):
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from mnist_tf.reports import report
n = int(sys.argv[1])
random = np.random.default_rng(1)
table = random.dirichlet(np.full(10, 0.1), 5000).astype(np.float32)
images = np.broadcast_to(np.zeros((1, 28, 28), np.uint8), (n, 28, 28))
report._with_rows = lambda batches, *_: batches  # only time
labels = np.arange(n) % 10
report.find(Path(sys.argv[2]), lambda batch: table[: len(batch)], images, labels,
            tuple("0123456789"), lambda _: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for images in (10_000, 500_000):
        done = subprocess.run(
            [sys.executable, "-c", code, str(images), str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 22  # MiB


@pytest.mark.fault
@pytest.mark.parametrize("name", ["matplotlib", "jinja2"])
def test_without_the_extra_the_table_is_printed(evaluated, monkeypatch, capsys, name):
    find_spec = evaluate.importlib.util.find_spec
    monkeypatch.setattr(
        evaluate.importlib.util,
        "find_spec",
        lambda module: None if module == name else find_spec(module),
    )
    with pytest.raises(UserError) as caught:
        evaluated("--report=report")
    assert str(caught.value) == (
        f"--report needs {name}, which is not installed; pip install 'mnist_tf[report]'"
    )
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.fault
def test_a_folder_with_other_files_is_refused_before_any_work(evaluated, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds 'notes\.txt', which is no part of a"):
        evaluated(f"--report={tmp_path}")
    assert contents(tmp_path) == {tmp_path / "notes.txt": b"mine"}


@pytest.mark.fault
def test_a_full_disk_keeps_an_earlier_report(evaluated, reported, tmp_path):
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        shutil.copytree(reported[1], disk / "report")
        before = contents(disk)
        with pytest.raises(UserError, match="No space left on device"):
            evaluated(f"--report={disk / 'report'}")
        assert contents(disk) == before


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("chromium is missing; apt-get install chromium")
    with playwright.sync_playwright() as started:
        # Root in a container cannot use the sandbox.
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class TestPage:
    @pytest.fixture
    def opened(self, browser, reported):
        """Opens the page with options of the browser, and collects faults."""
        contexts, faults = [], []

        def open_page(**options):
            context = browser.new_context(offline=True, **options)
            contexts.append(context)
            page = context.new_page()
            page.on("console", lambda message: faults.append(message.text))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on(
                "request",
                lambda request: (
                    request.url.startswith(("file:", "data:"))
                    or faults.append(f"a request to {request.url}")
                ),
            )
            page.goto((reported[1] / "index.html").as_uri())
            return page

        yield open_page
        for context in contexts:
            context.close()
        assert faults == []

    def test_every_picture_is_shown_and_has_a_text(self, opened):
        page = opened()
        broken = "all => all.filter(one => !one.naturalWidth || !one.alt).length"
        assert page.locator("img").evaluate_all(broken) == 0
        assert page.locator("img").count() > 60

    def test_the_pictures_of_a_cell_are_one_click_away(self, opened):
        page = opened()
        name = re.compile("labelled 3 and predicted 3: show pictures")
        button = page.get_by_role("button", name=name)
        button.click()
        dialog = page.get_by_role("dialog", name=re.compile("Labelled 3, predicted 3"))
        assert dialog.is_visible()
        assert dialog.locator("img").count() == 12
        page.keyboard.press("Escape")
        assert not dialog.is_visible()

    @pytest.mark.parametrize("width", [320, 1100])
    def test_it_fits_the_window(self, opened, width):
        page = opened(viewport={"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_light_and_dark_have_plots_of_their_own(self, opened):
        source = "document.querySelector('.plot img').currentSrc"
        ground = "getComputedStyle(document.body).backgroundColor"
        found = [
            (page.evaluate(source), page.evaluate(ground))
            for page in (opened(color_scheme=scheme) for scheme in ("light", "dark"))
        ]
        assert found[0][0] != found[1][0]
        assert found[0][1] != found[1][1]

    def test_it_is_printed_in_black_on_white(self, opened):
        page = opened(color_scheme="dark")
        page.emulate_media(media="print", color_scheme="dark")
        style = "getComputedStyle(document.body)"
        assert page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
        assert page.get_by_role("navigation").count() == 0

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_axe_finds_nothing_serious(self, opened, scheme):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        page = opened(color_scheme=scheme)
        page.get_by_role(
            "button", name=re.compile("labelled 3 and predicted 3")
        ).click()
        found = axe.Axe().run(page).response["violations"]
        assert [one["id"] for one in found] == []

    def test_headings_and_tables_are_named(self, opened):
        page = opened()
        assert page.get_by_role("heading", level=1).count() == 1
        for name in ("Classes", "Confusion", "Suspicious labels", "Calibration"):
            assert page.get_by_role("heading", name=name, exact=True).count() == 1
        tables = page.locator("table").evaluate_all(
            "all => all.map(one => one.caption)"
        )
        assert all(tables)
        assert page.locator("th:not([scope])").count() == 0
        target = "one => !document.querySelector(one.getAttribute('href'))"
        missing = f"all => all.filter({target}).length"
        assert page.locator("nav a").evaluate_all(missing) == 0


def test_names_of_files_may_be_no_valid_text(tmp_path):
    table = np.eye(3, dtype=np.float32)
    images, labels = np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 1])
    names, files = ("cat", "dog", "eel"), ("a.png", "\udcff.png", "<b>.png")
    found = report.find(
        tmp_path, lambda batch: table, images, labels, names, lambda _: None, files
    )
    about = {"model_dir": "out", "dataset": "custom", "split": "test"}
    report.write(tmp_path, found, images, about)
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["a.png", "\\udcff.png", "<b>.png"]
    (wrong,) = json.loads((tmp_path / "report.json").read_text())["worst_mistakes"]
    assert wrong["file"] == "<b>.png"
    assert 'title="&lt;b&gt;.png"' in (tmp_path / "index.html").read_text("utf-8")
