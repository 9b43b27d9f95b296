"""/metrics says how far the images of a server are from those of training."""

import asyncio
import contextlib
import json
import math
import os
import shutil

import httpx
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mnist_tf import artifact, data
from mnist_tf.config import Config
from mnist_tf.serving import drift as serving_drift
from mnist_tf.stats import drift
from tests.serving.conftest import PREDICT, npy, running_server
from tests.serving.test_processes import children, requests
from tests.serving.test_served_model import versions, wait_until

LIVE = {
    "mean": "mnist_tf_input_mean",
    "contrast": "mnist_tf_input_contrast",
    "ink": "mnist_tf_input_ink",
    "top_probability": "mnist_tf_top_probability",
}


@pytest.fixture(scope="module")
def familiar(sample):
    """Digits like those of training: the ones that were held out for validation."""
    _, held_out = data.stratified_split(sample.train_labels, 0.1, Config().seed)
    return sample.train_images[held_out]


@pytest.fixture
def folder(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "out")


@contextlib.contextmanager
def asking(model_dir, *flags):
    """Yields a client of a new server."""
    with (
        running_server(model_dir, "--log_format=none", *flags) as server,
        httpx.Client(base_url=server.url, timeout=30) as client,
    ):
        client.server = server
        yield client


def name_of(model_dir):
    """What the metrics call a model."""
    return artifact.read(model_dir).description["weights_sha256"][:12]


def replace(folder, name, images, probabilities):
    """Gives a model another name, as if of other weights, and another reference.

    In one step, as training does.
    """
    found = drift.to_json(drift.reference(images, probabilities))
    content = json.loads((folder / "config.json").read_text())
    content |= {"weights_sha256": name * 5, "reference": found}
    (folder / "new").write_text(json.dumps(content))
    os.replace(folder / "new", folder / "config.json")


class Metrics:
    """What /metrics says about the images of a model, the only one by default."""

    def __init__(self, client, model=None):
        self.samples = {}
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for each in family.samples:
                labels = dict(each.labels)
                if labels.pop("model", model) == (model or each.labels.get("model")):
                    key = each.name, *labels.values()
                    assert key not in self.samples
                    self.samples[key] = each.value

    def images(self, feature="mean", reference=False):
        """The number of images by bin."""
        buckets = {
            float(end): value
            for (name, *labels), value in self.samples.items()
            if name == f"{self.name(feature, reference)}_bucket"
            for end in labels
        }
        assert list(buckets) == sorted(buckets)
        return np.diff([0, *buckets.values()])

    def value(self, feature, suffix, reference=False):
        return self.samples[f"{self.name(feature, reference)}{suffix}",]

    def count(self, feature="mean"):
        return self.value(feature, "_count")

    @property
    def drift(self):
        """The distance by feature."""
        return {
            feature: self.samples["mnist_tf_drift", feature]
            for feature in LIVE
            if ("mnist_tf_drift", feature) in self.samples
        }

    def expected_drift(self):
        """The same, from the histograms that are shown."""
        found = {}
        for feature in LIVE:
            e, a = self.images(feature, reference=True), self.images(feature)
            e, a = np.maximum(e / e.sum(), 1e-4), np.maximum(a / a.sum(), 1e-4)
            found[feature] = math.fsum((a - e) * np.log(a / e))
        return pytest.approx(found)

    @staticmethod
    def name(feature, reference):
        name = LIVE[feature]
        return f"mnist_tf_reference_{name[9:]}" if reference else name


def test_digits_like_those_of_training_are_close(model_dir, familiar):
    with asking(model_dir) as client:
        client.post("/predict", content=npy(familiar))
        found = Metrics(client)
    assert found.drift.keys() == set(LIVE)
    assert max(found.drift.values()) < 0.1
    assert found.drift == found.expected_drift()


@pytest.mark.parametrize(
    ("change", "far"),
    [
        (lambda images: 255 - images, {"mean", "top_probability"}),
        (
            lambda images: np.random.default_rng(1).integers(
                0, 256, images.shape, np.uint8
            ),
            set(LIVE),
        ),
        (np.zeros_like, set(LIVE)),
        (lambda images: np.roll(images, 9, axis=1), {"top_probability"}),
    ],
    ids=["inverted", "noise", "blank", "moved"],
)
def test_other_pictures_are_far(model_dir, familiar, change, far):
    with asking(model_dir) as client:
        client.post(PREDICT, json={"instances": change(familiar).tolist()})
        found = Metrics(client)
    assert {feature for feature in LIVE if found.drift[feature] > 0.25} >= far
    assert found.drift == found.expected_drift()
    assert found.count() == len(familiar)


def test_the_histograms_are_those_of_the_model_directory_and_of_the_images(
    model_dir, digits, expected
):
    with asking(model_dir) as client:
        client.post("/predict", content=npy(digits[:300]))
        found = Metrics(client)
    known = artifact.read(model_dir).reference
    values = drift.figures(digits[:300])
    values["top_probability"] = expected[:300].max(axis=1)
    for feature, reference in known.items():
        counts = drift.counts(reference.edges, values[feature])
        assert found.images(feature).tolist() == counts.tolist()
        assert found.images(feature, True).tolist() == list(reference.images)
        assert found.count(feature) == 300
        assert found.value(feature, "_count", True) == sum(reference.images)
        total = pytest.approx(values[feature].sum(), rel=1e-5)
        assert found.value(feature, "_sum") == total
        assert found.value(feature, "_sum", True) == pytest.approx(reference.sum)


def test_each_way_to_ask_counts_and_mistakes_do_not(model_dir, digits):
    with asking(model_dir) as client:
        # Before the first image there is nothing to compare.
        found = Metrics(client)
        assert found.drift == {}
        assert (found.count(), found.value("mean", "_count", True)) == (0, 4050)
        body = {"instances": digits[:1].tolist()}
        paths = [PREDICT, "/v1/models/mnist/versions/1:predict"]
        for number, path in enumerate(paths, 1):
            assert client.post(path, json=body).status_code == 200
            found = Metrics(client)
            assert [found.count(feature) for feature in LIVE] == [number] * 4
        # One image is in one bin of ten; that it is far means nothing.
        assert sorted(found.images())[-2:] == [0, 2]
        assert found.drift["mean"] > 0.25
        # A blank image has no label but is an image.
        blank = npy(np.zeros((2, 28, 28), np.uint8))
        assert client.post("/predict", content=blank).status_code == 200
        assert Metrics(client).count() == 4
        assert Metrics(client).images()[0] == 2
        assert client.post("/predict", content=b"?").status_code == 400
        assert client.post(PREDICT, json={"instances": [[1]]}).status_code == 400
        assert Metrics(client).count() == 4
        assert "mnist_tf_drift_" not in client.get("/metrics").text


def test_the_images_of_all_processes_are_compared(model_dir, familiar):
    with asking(model_dir, "--workers=2") as client:
        server = client.server
        clients = [httpx.Client(base_url=server.url, timeout=30) for _ in range(30)]
        for index, each in enumerate(clients):
            body = npy(familiar[index::30])
            assert each.post("/predict", content=body).status_code == 200
        assert all(requests(server, process) for process in children(server))
        # A process counts the images that it got within a second.
        wait_until(lambda: Metrics(client).count() == len(familiar))
        found = Metrics(client)
        for each in clients:
            each.close()
    assert max(found.drift.values()) < 0.1
    assert found.drift == found.expected_drift()
    counts = drift.counts(
        artifact.read(model_dir).reference["ink"].edges, drift.figures(familiar)["ink"]
    )
    assert found.images("ink").tolist() == counts.tolist()


def test_a_new_model_is_compared_with_its_own_training(folder, familiar):
    with asking(folder, "--watch") as client:
        client.post("/predict", content=npy(familiar))
        assert max(Metrics(client).drift.values()) < 0.1
        replace(folder, "ab" * 6, 255 - familiar, np.full((9, 10), 0.1))
        wait_until(lambda: versions(client) == [("2", "AVAILABLE")])
        # No counter goes backwards: those of the new model are others, and start at 0.
        text = client.get("/metrics").text
        assert set(Metrics(client, "ab" * 6).images()) == {0}
        assert 'mnist_tf_input_mean_count{model="abababababab"} 0.0' in text
        assert text.count("mnist_tf_input_mean_count") == 1
        assert "mnist_tf_drift{" not in text
        client.post("/predict", content=npy(familiar))
        found = Metrics(client, "ab" * 6)
        assert found.count() == len(familiar)
        assert found.drift["mean"] > 0.25
        assert found.drift == found.expected_drift()


def test_versions_are_counted_each_for_itself_and_go_on_after_a_rollback(
    model_dir, folder, tmp_path, digits
):
    models = tmp_path / "models"
    artifact.copy_published(model_dir, models / "1")
    replace(folder, "ab" * 6, digits, np.full((9, 10), 0.1))
    first, second = name_of(model_dir), name_of(folder)
    with asking(models, "--watch") as client:
        client.post("/predict", content=npy(digits[:5]))
        artifact.copy_published(folder, tmp_path / "2")
        os.rename(tmp_path / "2", models / "2")
        wait_until(lambda: versions(client) == [("2", "AVAILABLE"), ("1", "AVAILABLE")])
        client.post("/predict", content=npy(digits[:3]))
        path = "/v1/models/mnist/versions/1:predict"
        client.post(path, json={"instances": digits[:2].tolist()})
        counts = [Metrics(client, name).count() for name in (first, second)]
        assert counts == [7, 3]
        shutil.rmtree(models / "2")
        wait_until(lambda: versions(client) == [("1", "AVAILABLE")])
        client.post("/predict", content=npy(digits[:1]))
        assert Metrics(client, first).count() == 8
        assert second not in client.get("/metrics").text


def test_a_model_of_an_earlier_version_is_served_without(folder, digits):
    content = json.loads((folder / "config.json").read_text())
    del content["reference"]
    (folder / "config.json").write_text(json.dumps(content))
    with asking(folder) as client:
        assert client.post("/predict", content=npy(digits[:5])).status_code == 200
        text = client.get("/metrics").text
        assert client.server.lines[1:] == []
    assert "mnist_tf_predictions_total" in text
    names = ("drift", "input", "reference", "top_probability")
    assert not any(f"mnist_tf_{name}" in text for name in names)


class Counting:
    """The drift of a server without the server."""

    def __init__(self, model_dir):
        self.model = artifact.read(model_dir)
        self.registry = CollectorRegistry()
        make = {"namespace": "mnist_tf", "registry": self.registry}
        self.drift = serving_drift.Drift(lambda: [self.model], make)

    def add(self, images):
        answers = np.full((len(images), 10), 0.1, np.float32)
        self.drift.add(self.model, images, answers)

    def images(self):
        """The number of images by ink, cumulated."""
        families = self.drift.exposed(self.registry.collect())
        (ink,) = [family for family in families if family.name == LIVE["ink"]]
        return [each.value for each in ink.samples if each.name.endswith("_bucket")]


class TestCounting:
    @pytest.fixture
    def counting(self, model_dir):
        return Counting(model_dir)

    def test_images_are_counted_together_within_a_second(self, counting, digits):
        async def ask():
            for image in digits[:9]:
                counting.add(image[np.newaxis])
            assert counting.images()[-1] == 0
            await asyncio.sleep(1.2)
            assert counting.images()[-1] == 9

        asyncio.run(ask())

    def test_of_too_many_images_in_a_second_a_part_is_counted(self, counting, digits):
        most = 2**20 // 784

        async def ask():
            for _ in range(5):
                counting.add(digits)
            counting.drift.count()
            before = counting.images()[-1]
            assert 1000 < before <= most + 1
            counting.add(digits[:7])  # in the next second
            counting.drift.count()
            assert counting.images()[-1] == before + 7

        asyncio.run(ask())

    def test_of_a_large_request_images_from_all_of_it_are_counted(self, counting):
        images = np.zeros((5000, 28, 28), np.uint8)
        images[2500:, :, 10:20] = 255

        async def ask():
            counting.add(images)
            counting.drift.count()

        asyncio.run(ask())
        assert counting.images() == [625] * 9 + [1250]
