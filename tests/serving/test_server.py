"""Clients get the predictions of the model, however they send an image."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conftest import ROOT
from tests.serving.conftest import PREDICT, npy, png, running_server


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def test_all_programs_predict_the_same_labels(model_dir):
    """evaluate.py, predict.py and serve.py; the benchmark compares more images."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.labels", f"--model_dir={model_dir}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["images"] == 500
    assert len(found["differences"]) == 5
    assert not any(found["differences"].values()), found


class TestTensorFlowServing:
    @pytest.mark.parametrize(
        ("path", "body", "key"),
        [
            (PREDICT, lambda images: {"instances": images}, "predictions"),
            (PREDICT, lambda images: {"inputs": images}, "outputs"),
            (PREDICT, lambda images: {"inputs": {"images": images}}, "outputs"),
            (
                PREDICT,
                lambda images: {"instances": [{"images": each} for each in images]},
                "predictions",
            ),
            (
                "/v1/models/mnist/versions/1:predict",
                lambda images: {"signature_name": "serve", "instances": images},
                "predictions",
            ),
        ],
    )
    def test_formats(self, client, digits, expected, path, body, key):
        response = client.post(path, json=body(digits[:5].tolist()))
        assert response.status_code == 200
        assert response.json().keys() == {key}
        np.testing.assert_allclose(response.json()[key], expected[:5], atol=1e-6)

    def test_floats_in_0_to_1_are_the_same_images(self, client, digits, expected):
        images = (digits[:2] / 255).tolist()
        response = client.post(PREDICT, json={"instances": images})
        found = response.json()["predictions"]
        np.testing.assert_allclose(found, expected[:2], atol=1e-6)

    def test_image_files_in_base64(self, client, digits, expected):
        files = [b64(png(image)) for image in digits[:5]]
        response = client.post(PREDICT, json={"instances": files})
        found = response.json()["predictions"]
        np.testing.assert_allclose(found, expected[:5], atol=1e-6)

    def test_the_typicality_is_there_where_it_is_asked_for(
        self, client, digits, outputs
    ):
        body = {"instances": digits[:5].tolist()}
        both = ["probabilities", "typicality"]
        rows = client.post(PREDICT, json={**body, "output_filter": both}).json()
        for row, probabilities, typicality in zip(
            rows["predictions"], outputs.probabilities, outputs.typicality, strict=False
        ):
            assert row.keys() == set(both)
            np.testing.assert_allclose(row["probabilities"], probabilities, atol=1e-6)
            assert row["typicality"] == pytest.approx(typicality, abs=1e-5)
        only = client.post(PREDICT, json={**body, "output_filter": both[1:]}).json()
        found = only["predictions"]
        np.testing.assert_allclose(found, outputs.typicality[:5], atol=1e-5)
        body = {"inputs": digits[:5].tolist(), "output_filter": both}
        columns = client.post(PREDICT, json=body).json()["outputs"]
        np.testing.assert_allclose(columns["typicality"], found)
        assert np.shape(columns["probabilities"]) == (5, 10)

    def test_status(self, client):
        found = client.get("/v1/models/mnist").json()
        (status,) = found["model_version_status"]
        assert (status["version"], status["state"]) == ("1", "AVAILABLE")
        assert status["status"] == {"error_code": "OK", "error_message": ""}

    def test_metadata(self, client):
        found = client.get("/v1/models/mnist/metadata").json()
        assert found["model_spec"]["name"] == "mnist"
        serve = found["metadata"]["signature_def"]["signature_def"]["serve"]
        dim = [{"size": size, "name": ""} for size in ("-1", "28", "28")]
        shape = {"dim": dim, "unknown_rank": False}
        assert serve["outputs"].keys() == {"probabilities", "typicality"}
        assert serve["inputs"]["images"] == {"dtype": "DT_UINT8", "tensor_shape": shape}
        assert found["metadata"]["labels"] == list("0123456789")
        assert found["metadata"]["image_shape"] == [28, 28]


class TestFiles:
    def test_an_image_file(self, client, digits):
        body = png(255 - digits[0], (300, 300))
        headers = {"content-type": "image/png"}
        path = "/predict?top_k=2&pixels=true"
        response = client.post(path, content=body, headers=headers)
        assert response.status_code == 200
        found = response.json()
        assert (found["model"], found["version"]) == ("mnist", "1")
        (row,) = found["predictions"]
        assert row["label"] == row["top"][0]["label"] == "0"
        assert row["probability"] == row["top"][0]["probability"]
        assert len(row["top"]) == 2
        assert not row["rejected"]
        pixels = np.frombuffer(base64.b64decode(row["pixels"]), np.uint8)
        assert pixels.reshape(found["image_shape"])[14].any()

    def test_an_npy_file(self, client, digits, expected):
        response = client.post("/predict", content=npy(digits[:50]))
        rows = response.json()["predictions"]
        labels = [int(row["top"][0]["label"]) for row in rows]
        assert labels == expected[:50].argmax(1).tolist()

    def test_an_upload(self, client, digits):
        files = {"file": ("zero.png", png(digits[0]), "image/png")}
        rows = client.post("/predict", files=files).json()["predictions"]
        assert [row["label"] for row in rows] == ["0"]

    def test_a_blank_image_has_no_label(self, client):
        body = png(np.full((60, 60), 255, np.uint8))
        (row,) = client.post("/predict", content=body).json()["predictions"]
        assert row["label"] is row["probability"] is None
        assert "blank" in row["reason"]
        assert not row["rejected"]

    def test_reject_below_removes_improbable_labels(self, model_dir, digits):
        with running_server(model_dir, "--reject_below=1") as server:
            response = httpx.post(f"{server.url}/predict", content=npy(digits[:1]))
        (row,) = response.json()["predictions"]
        assert row["label"] is None
        assert row["rejected"]
        assert row["top"][0]["label"] == "0"

    def test_an_image_unlike_the_training_images_has_no_label(self, client, model_dir):
        noise = np.random.default_rng(1).integers(0, 256, (1, 28, 28), np.uint8)
        (row,) = client.post("/predict", content=npy(noise)).json()["predictions"]
        assert (row["label"], row["reason"]) == (None, "not like the training images")
        assert row["rejected"]
        assert row["typicality"] < 0.005
        assert len(row["top"]) == 3
        with running_server(model_dir, "--reject_atypical=0") as server:
            response = httpx.post(f"{server.url}/predict", content=npy(noise))
        (row,) = response.json()["predictions"]
        assert row["label"] == row["top"][0]["label"]


def test_all_formats_give_the_same_labels(client, digits, expected):
    labels = expected.argmax(1).tolist()
    for start in range(0, 200, 50):
        part = digits[start : start + 50]
        as_json = client.post(PREDICT, json={"instances": part.tolist()}).json()
        files = [b64(png(image)) for image in part]
        as_png = client.post(PREDICT, json={"instances": files}).json()
        as_npy = client.post("/predict", content=npy(part)).json()["predictions"]
        for found in (as_json, as_png):
            found = np.argmax(found["predictions"], axis=1)
            assert found.tolist() == labels[start : start + 50]
        tops = [int(row["top"][0]["label"]) for row in as_npy]
        assert tops == labels[start : start + 50]


def test_all_paths_are_documented(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    page = client.get("/docs").text
    for path in document["paths"]:
        assert path in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_server_does_not_load_tensorflow(server):
    maps = Path(f"/proc/{server.pid}/maps")
    if not maps.exists():
        pytest.skip("this system does not list what a process has loaded")
    assert "tensorflow" not in maps.read_text().lower()


@pytest.mark.fault
def test_a_log_on_a_full_disk_does_not_matter(model_dir, digits):
    command = [sys.executable, "serve.py", f"--model_dir={model_dir}", "--port=0"]
    with (
        open("/dev/full", "w") as full,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=full, text=True
        ) as process,
    ):
        url = process.stdout.readline().split()[1].rstrip("/")
        with httpx.Client(base_url=url) as client:
            for _ in range(2):
                found = client.post(PREDICT, json={"instances": digits[:1].tolist()})
                assert found.status_code == 200
        process.terminate()
        assert process.wait(timeout=30) == 0
