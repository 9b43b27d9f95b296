"""A trained model and a server of it, as a process behind a real socket."""

import contextlib
import io
import subprocess
import sys
import threading

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from mnist_tf.data import datasets
from mnist_tf.predictor import Predictor
from tests.conftest import ROOT

PREDICT = "/v1/models/mnist:predict"
BLANK = np.zeros((28, 28), int).tolist()
LIMITS = ["--max_body_bytes=100000", "--max_instances=50", "--header_timeout=1",
          "--body_timeout=1"]  # fmt: skip


@contextlib.contextmanager
def running_server(model_dir, *flags, python=sys.executable, cwd=ROOT):
    """Yields a server process, with its address in `url` and its log in `lines`."""
    command = [python, "serve.py", f"--model_dir={model_dir}", "--port=0", *flags]
    process = subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True)
    process.lines = []
    process.url = ""
    for line in process.stderr:
        process.lines.append(line.rstrip())
        if line.startswith("serving http"):
            process.url = line.split()[1].rstrip("/")
            break

    def read():
        process.lines.extend(line.rstrip() for line in process.stderr)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert process.url, process.lines
        yield process
    finally:
        process.kill()
        process.wait()
        reader.join()


@pytest.fixture(scope="session")
def model_dir(smoke):
    return smoke / "out"


@pytest.fixture(scope="module")
def server(model_dir):
    with running_server(model_dir, *LIMITS) as process:
        yield process


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def digits():
    return datasets.load("sample").test_images


@pytest.fixture(scope="session")
def outputs(model_dir, digits):
    return Predictor(model_dir).outputs(digits)


@pytest.fixture(scope="session")
def expected(outputs):
    return outputs.probabilities


def png(image, size=None):
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.resize(size) if size else picture).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def instances(*images):
    return orjson.dumps({"instances": images})


def assert_error(response, status, words):
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert words in response.json()["error"]


def assert_healthy(client):
    assert client.post(PREDICT, content=instances(BLANK)).status_code == 200
    assert client.get("/readyz").status_code == 200
