"""A server of a repository follows its newest version, and answers for others."""

import shutil
import threading

import httpx
import numpy as np
import pytest

from mnist_tf.cli import train
from mnist_tf.errors import UserError
from mnist_tf.predictor import Predictor
from mnist_tf.run import publishing
from mnist_tf.serving.served_model import ServedModel
from tests.conftest import ROOT
from tests.serving.conftest import BLANK, PREDICT, instances, running_server
from tests.serving.test_served_model import versions, wait_until


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    folders = [f"--model_dir={folder}/out", f"--log_dir={folder}/logs"]
    flags = ["--epochs=1", "--filters=4,8", "--seed=2", *folders]
    train.main(["train", f"--flagfile={ROOT}/configs/smoke.cfg", *flags])
    return folder / "out"


@pytest.fixture
def models(model_dir, tmp_path):
    """A repository with one version."""
    publishing.publish(model_dir, tmp_path / "models")
    return tmp_path / "models"


def ask(client, digits, version=""):
    path = f"/v1/models/mnist{version and f'/versions/{version}'}:predict"
    response = client.post(path, json={"instances": digits[:5].tolist()})
    if response.status_code != 200:
        return response.json()["error"]
    return np.array(response.json()["predictions"])


def test_a_version_that_is_replaced_in_its_place_is_gone(models, other, tmp_path):
    model = ServedModel(models)
    publishing.publish(other, tmp_path / "second")
    (models / "1").rename(tmp_path / "old")
    (tmp_path / "second" / "1").rename(models / "1")
    assert model.reload()
    assert model.loaded() == {1: model.predictor}
    assert model.predictor.artifact.config.seed == 2


def test_versions_come_and_are_taken_back_without_a_failed_request(
    models, model_dir, other, digits, expected
):
    others = Predictor(other).probabilities(digits)[:5]
    codes, stop = [], threading.Event()

    def keep_asking(url):
        body = instances(BLANK)
        with httpx.Client(base_url=url) as asking:
            while not stop.is_set():
                codes.append(asking.post(PREDICT, content=body).status_code)

    with (
        running_server(models, "--watch", "--log_format=none") as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        asking = [
            threading.Thread(target=keep_asking, args=[server.url]) for _ in range(2)
        ]
        for thread in asking:
            thread.start()
        publishing.publish(other, models)
        wait_until(lambda: versions(client) == [("2", "AVAILABLE"), ("1", "AVAILABLE")])
        # The new one answers, and each for itself.
        for version, probabilities in (("", others), (1, expected[:5]), (2, others)):
            found = ask(client, digits, version)
            np.testing.assert_allclose(found, probabilities, atol=1e-6)
        metadata = client.get("/v1/models/mnist/versions/1/metadata").json()
        assert metadata["model_spec"]["version"] == "1"
        [only] = client.get("/v1/models/mnist/versions/1").json().values()
        assert [each["version"] for each in only] == ["1"]
        # At most two are loaded.
        publishing.publish(model_dir, models)
        wait_until(lambda: versions(client) == [("3", "AVAILABLE"), ("2", "AVAILABLE")])
        assert ask(client, digits, 1) == (
            "no version '1'; the current version is 3; 2 is loaded, too"
        )
        # A rollback is the removal of a folder.
        shutil.rmtree(models / "3")
        wait_until(lambda: versions(client) == [("2", "AVAILABLE")])
        np.testing.assert_allclose(ask(client, digits), others, atol=1e-6)
        publishing.publish(model_dir, models)
        wait_until(lambda: versions(client) == [("4", "AVAILABLE"), ("2", "AVAILABLE")])
        # The one before is removed, and no longer answers.
        shutil.rmtree(models / "2")
        wait_until(lambda: versions(client) == [("4", "AVAILABLE")])
        # Of a repository that is emptied, the last one is still served.
        shutil.rmtree(models / "4")
        shutil.rmtree(models / "1")
        wait_until(lambda: versions(client)[0][1] == "END")
        np.testing.assert_allclose(ask(client, digits), expected[:5], atol=1e-6)
        stop.set()
        for thread in asking:
            thread.join()
    assert set(codes) == {200}
    assert len(codes) > 100


def test_the_newest_version_or_the_one_that_is_asked_for_is_served(models, other):
    for _ in range(9):
        publishing.publish(other, models)
    assert ServedModel(models).version == 10
    pinned = ServedModel(models, version=1)
    assert (pinned.version, pinned.reload()) == (1, False)
    publishing.publish(other, models)
    assert (pinned.reload(), pinned.version) == (False, 1)


@pytest.mark.fault
def test_a_version_that_is_not_there_is_refused(models, model_dir):
    line = r"models has no version 7 \(it has 1\); publish it, or serve another one"
    with pytest.raises(UserError, match=line):
        ServedModel(models, version=7)
    with pytest.raises(UserError, match="--version=7 needs a repository, but"):
        ServedModel(model_dir, version=7)


@pytest.mark.fault
def test_a_damaged_version_is_not_served(models, model_dir, digits):
    model = ServedModel(models)
    publishing.publish(model_dir, models)
    (models / "2" / "assets.extra" / "model.tflite").write_bytes(b"damaged")
    assert not model.reload()
    assert (model.version, "is damaged" in model.error) == (1, True)
    [failed, current] = model.status()["model_version_status"]
    assert (failed["version"], failed["state"]) == ("2", "END")
    assert (current["version"], current["state"]) == ("1", "AVAILABLE")
