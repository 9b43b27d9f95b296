"""With --watch, a new model replaces the old one without a failed request."""

import asyncio
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest

from mnist_tf import artifact
from mnist_tf.cli import train
from mnist_tf.predictor import Predictor
from mnist_tf.serving.monitoring import AccessLog
from mnist_tf.serving.served_model import ServedModel
from mnist_tf.serving.server import Server, Settings
from tests.conftest import ROOT
from tests.serving.conftest import BLANK, PREDICT, instances, npy, running_server
from tests.test_artifact import as_version_1

# Replaces a model again and again while there are requests, and prints how much more
# memory the process then uses, in bytes.
REPLACING = """
import asyncio, json, os, sys
from pathlib import Path
import numpy as np, orjson, psutil
from mnist_tf.serving.batching import Batcher
from mnist_tf.serving.requests import parse_instances
from mnist_tf.serving.served_model import ServedModel, watch

async def keep_asking(model, batcher, count):
    images = np.full((count, 28, 28), 9, np.uint8).tolist()
    body = orjson.dumps({"instances": images})
    while True:
        parsed = await asyncio.to_thread(parse_instances, body, (28, 28), count)
        found = await batcher.predict(parsed[0], model.predictor.outputs)
        orjson.dumps(found.probabilities.tolist())

async def measure(times):
    found = []
    for _ in range(times):
        await asyncio.sleep(0.02)
        found.append(psutil.Process().memory_info().rss)
    return found

async def main(config):
    description = json.loads(config.read_text())
    model = ServedModel(config.parent)
    batcher = Batcher()
    tasks = [watch(model, lambda: None, interval=0.001)]
    counts = (1, 20, 20, 100, 256, 256, 300)
    tasks += [keep_asking(model, batcher, count) for count in counts]
    tasks = [asyncio.create_task(task) for task in tasks]
    used = await measure(100)
    start = max(used)
    for number in range(60):
        config.with_name("new").write_text(json.dumps({**description, "n": number}))
        os.replace(config.with_name("new"), config)
        while model.version < number + 2:
            await asyncio.sleep(0.01)
        used += await measure(3)
    print(max(used) - start, flush=True)
    os._exit(0)

asyncio.run(main(Path(sys.argv[1])))
"""


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def folder(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "out")


@pytest.fixture
def other(tmp_path):
    folders = [f"--model_dir={tmp_path}/other", f"--log_dir={tmp_path}/logs"]
    flags = ["--epochs=1", "--filters=4,8", "--seed=2", *folders]
    train.main(["train", f"--flagfile={ROOT}/configs/smoke.cfg", *flags])
    return tmp_path / "other"


@pytest.fixture
def watching(folder):
    with running_server(folder, "--watch", "--log_format=none") as server:
        yield server


@pytest.fixture
def client(watching):
    with httpx.Client(base_url=watching.url) as client:
        yield client


def status(client):
    return client.get("/v1/models/mnist").json()["model_version_status"]


def versions(client):
    return [(each["version"], each["state"]) for each in status(client)]


def change(folder, edit):
    config = json.loads((folder / "config.json").read_text())
    edit(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.fault
def test_damage_of_any_kind_changes_nothing(folder, capsys):
    model = ServedModel(folder)
    good = (folder / "config.json").read_text()
    # NumPy has no memory for such an image.
    change(folder, lambda config: config["preprocessing"].update(height=10**12))
    assert not model.reload()
    assert "still serving version 1: " in capsys.readouterr().err
    assert model.status()["model_version_status"][0]["state"] == "END"
    (folder / "config.json").write_text(good)
    assert not model.reload()  # it is the same
    assert model.error == ""


def test_a_new_model_replaces_the_old_one(folder, other, watching, client, digits):
    codes, stop = [], threading.Event()

    def keep_asking():
        body = instances(BLANK)
        with httpx.Client(base_url=watching.url) as asking:
            while not stop.is_set():
                codes.append(asking.post(PREDICT, content=body).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    shutil.copytree(other, folder / ".incoming")
    wait_until(lambda: versions(client) == [("2", "AVAILABLE")])
    stop.set()
    asking.join()
    assert set(codes) == {200}
    body = {"instances": digits[:3].tolist()}
    found = client.post(PREDICT, json=body).json()["predictions"]
    expected = Predictor(other).probabilities(digits[:3])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    old = client.post("/v1/models/mnist/versions/1:predict", json=body)
    assert old.status_code == 404


@pytest.mark.skipif(sys.platform != "linux", reason="mends a habit of glibc")
def test_replaced_models_leave_no_memory_behind(folder):
    command = [sys.executable, "-c", REPLACING, folder / "config.json"]
    found = subprocess.check_output(command, cwd=ROOT, text=True)
    assert int(found) < 6 * 2**20


def test_a_damaged_model_changes_nothing(folder, watching, client, digits, expected):
    change(folder, lambda config: config["files"].update({"model.tflite": "0" * 64}))
    wait_until(lambda: versions(client) == [("2", "END"), ("1", "AVAILABLE")])
    assert "is damaged" in status(client)[0]["status"]["error_message"]
    body = {"instances": digits[:3].tolist()}
    found = client.post(PREDICT, json=body).json()["predictions"]
    np.testing.assert_allclose(found, expected[:3], atol=1e-6)
    time.sleep(1.5)
    assert sum("still serving version 1" in line for line in watching.lines) == 1


def test_a_model_with_other_labels_changes_nothing(folder, client):
    change(folder, lambda config: config["dataset"]["labels"].__setitem__(0, "zero"))
    wait_until(lambda: versions(client) == [("2", "END"), ("1", "AVAILABLE")])
    assert "labels" in status(client)[0]["status"]["error_message"]


@pytest.mark.fault
def test_a_directory_that_cannot_be_read_for_a_while_is_watched_on(
    folder, monkeypatch, capsys
):
    served = ServedModel(folder)
    change(folder, lambda config: config.update(other=1))
    stale = OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # of a file server
    with monkeypatch.context() as patched:
        patched.setattr(artifact, "read", lambda path: (_ for _ in ()).throw(stale))
        assert not served.reload()
    assert "still serving version 1: [Errno 116] Stale file" in capsys.readouterr().err
    assert served.reload()
    assert served.version == 2


def test_a_response_names_the_version_that_it_is_from(folder, other, digits):
    served = ServedModel(folder)
    server = Server(served, Settings(), AccessLog("none"))
    expected = served.predictor.predict(digits[:1])[0].probability
    predict = server.batcher.predict

    async def replaced_meanwhile(images, model):
        shutil.copytree(other, folder / ".incoming")
        assert served.reload()
        return await predict(images, model)

    async def ask():
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as to:
            return (await to.post("/predict", content=npy(digits[:1]))).json()

    server.batcher.predict = replaced_meanwhile
    answer = asyncio.run(ask())
    server.batcher.close()
    assert (answer["version"], served.version) == ("1", 2)
    assert answer["predictions"][0]["probability"] == pytest.approx(expected)


def test_a_model_directory_of_the_version_before_is_served(folder, digits):
    served = ServedModel(as_version_1(folder))
    (found,) = served.status()["model_version_status"]
    assert (found["version"], found["state"]) == ("1", "AVAILABLE")
    assert len(served.predictor.predict(digits[:3])) == 3
