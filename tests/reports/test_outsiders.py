"""Outsiders are read from data sets and directories, and told apart."""

import json

import numpy as np
import pytest
from PIL import Image

from mnist_tf.cli import evaluate
from mnist_tf.data import Preprocessing
from mnist_tf.predictor import Outputs
from mnist_tf.reports import outsiders
from mnist_tf.reports.selection import Selection
from mnist_tf.reports.statistics import rate
from tests.conftest import refusal

DIGITS = Preprocessing("digits", 28, 28, "grayscale")


def test_the_test_images_of_a_data_set_are_taken(sample):
    found = outsiders.load("sample", DIGITS)
    assert (found == sample.test_images).all()


def test_a_directory_of_images_and_arrays_is_read(tmp_path):
    np.save(tmp_path / "noise.npy", np.full((3, 28, 28), 7, np.uint8))
    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 60), "red").save(tmp_path / "more" / "red.png")
    photos = Preprocessing("photo", 28, 28, "grayscale")
    assert outsiders.load(str(tmp_path), photos).shape == (4, 28, 28)


def test_a_directory_in_the_format_of_mnist_is_read(idx_folder, arrays):
    assert (outsiders.load(str(idx_folder), DIGITS) == arrays[2]).all()


def test_a_directory_with_a_whole_data_set_in_one_file_is_read(tmp_path, arrays):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "data.npz", **dict(zip(names, arrays, strict=True)))
    assert (outsiders.load(str(tmp_path), DIGITS) == arrays[2]).all()


@pytest.mark.fault
def test_a_damaged_file_is_an_error(tmp_path, arrays, idx_folder):
    for label in "ab":
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index, image in enumerate(arrays[2][:9]):
            Image.fromarray(image).save(tmp_path / "pets" / label / f"{index}.png")
    damaged = tmp_path / "pets" / "a" / "bad.png"
    damaged.write_bytes(b"no image")
    assert str(damaged) in refusal(outsiders.load, str(tmp_path / "pets"), DIGITS)
    images = idx_folder / "t10k-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:99])
    assert str(images) in refusal(outsiders.load, str(idx_folder), DIGITS)


@pytest.mark.fault
def test_what_is_neither_is_an_error():
    line = refusal(outsiders.load, "letters", DIGITS)
    assert "--outsiders must be one of mnist, fashion_mnist" in line
    assert line.endswith("(got 'letters'), or a directory")


def test_the_figures_agree_with_values_computed_by_hand():
    images = np.zeros((4, 2, 2), np.uint8)
    images[:, 0, 0] = [60, 90, 70, 80]

    def outputs(batch):
        share = batch[:, 0, 0] / np.float32(100)
        return Outputs(np.stack([share, 1 - share], axis=1), share / 200)

    found = outsiders.measure(
        "noise",
        images,
        outputs,
        np.array([0.95, 0.85, 0.65], np.float32),
        np.array([0.9, 0.0042, 0.001], np.float32),
        {0.99: Selection(0.99, 0.75, 0.5, rate(1, 1)), 0.999: None},
        lambda _: None,
    )
    assert found.auroc == pytest.approx((4 + 3 + 1) / 12)
    assert found.mean == pytest.approx(0.75)
    # 0.003, 0.0045, 0.0035 and 0.004
    assert found.typicality.auroc == pytest.approx((4 + 3 + 0) / 12)
    assert found.typicality.rejected == 1
    assert found.typicality.own_rejected == pytest.approx(2 / 3)
    assert found.rejected == {0.99: 0.5}
    assert [(index, prediction) for index, prediction, _ in found.most_confident] == [
        (1, 0), (3, 0), (2, 0), (0, 0)
    ]  # fmt: skip
    assert found.pictures[0][0, 0] == 90


def test_a_report_has_both_sections(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(
        tmp_path / "noise.npy",
        np.random.default_rng(1).integers(0, 256, (50, 28, 28), np.uint8),
    )
    evaluate.main([
        "evaluate", f"--model_dir={trained[1] / 'out'}", "--report=report",
        "--robustness", f"--outsiders={tmp_path}",
    ])  # fmt: skip
    figures = json.loads((tmp_path / "report" / "report.json").read_text())
    assert len(figures["robustness"]) == 1 + 7 * 4
    assert figures["robustness"][0]["accuracy"] == figures["accuracy"]["value"]
    assert figures["outsiders"]["images"] == 50
    assert 0 <= figures["outsiders"]["auroc"] <= 1
    first, *others = figures["outsiders"]["most_confident"]
    assert (first["index"] < 50, first["prediction"] in "0123456789") == (True, True)
    assert all(first["probability"] >= each["probability"] for each in others)
    html = (tmp_path / "report" / "index.html").read_text("utf-8")
    assert 'id="robustness"' in html
    assert 'alt="Outsider ' in html


@pytest.mark.fault
@pytest.mark.parametrize("flag", ["--robustness", "--outsiders=sample"])
def test_without_a_report_there_is_nowhere_to_write(refused, flag):
    line = refused(evaluate, flag)
    name = flag.partition("=")[0]
    assert f"{name} is a part of the report; give --report=DIR" in line
