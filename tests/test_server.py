"""The server, as a process of its own behind a real socket."""

import asyncio
import base64
import concurrent.futures
import contextlib
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

import train
from mnist_tf import datasets
from mnist_tf.predictor import Predictor

ROOT = Path(__file__).parents[1]
PREDICT = "/v1/models/mnist:predict"
SMALL = ["--max_body_bytes=100000", "--max_instances=50", "--header_seconds=1",
         "--body_seconds=1"]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    folders = [f"--model_dir={folder}/out", f"--log_dir={folder}/logs"]
    train.main(["train.py", f"--flagfile={ROOT}/configs/smoke.cfg", *folders])
    return folder / "out"


@contextlib.contextmanager
def serving(out, *flags, python=sys.executable, cwd=ROOT):
    """A server's process, with its address in `url` and its log in `lines`."""
    command = [python, "serve.py", f"--model_dir={out}", "--port=0", *flags]
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


@pytest.fixture(scope="module")
def server(out):
    with serving(out, *SMALL) as process:
        yield process


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url, timeout=30) as each:
        yield each


@pytest.fixture(scope="module")
def digits():
    return datasets.load("sample").test_images


@pytest.fixture(scope="module")
def expected(out, digits):
    return Predictor(out).probabilities(digits)


def png(image, size=None):
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    (picture.resize(size) if size else picture).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def test_every_way_to_ask_gives_the_same_labels(out):
    """Through evaluate.py, predict.py and serve.py; the benchmark does it at length."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.labels", f"--model_dir={out}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found["images"] == 500
    assert len(found["differences"]) == 5
    assert not any(found["differences"].values()), found


class TestLikeTensorFlowServing:
    @pytest.mark.parametrize(
        ("path", "body", "key"),
        [
            (PREDICT, lambda rows: {"instances": rows}, "predictions"),
            (PREDICT, lambda rows: {"inputs": rows}, "outputs"),
            (PREDICT, lambda rows: {"inputs": {"images": rows}}, "outputs"),
            (
                PREDICT,
                lambda rows: {"instances": [{"images": row} for row in rows]},
                "predictions",
            ),
            (
                "/v1/models/mnist/versions/1:predict",
                lambda rows: {"signature_name": "serve", "instances": rows},
                "predictions",
            ),
        ],
    )
    def test_every_way_to_ask(self, client, digits, expected, path, body, key):
        found = client.post(path, json=body(digits[:5].tolist()))
        assert found.status_code == 200
        assert found.json().keys() == {key}
        np.testing.assert_allclose(found.json()[key], expected[:5], atol=1e-6)

    def test_floats_of_0_to_1_are_the_same_images(self, client, digits, expected):
        rows = (digits[:2] / 255).tolist()
        found = client.post(PREDICT, json={"instances": rows}).json()["predictions"]
        np.testing.assert_allclose(found, expected[:2], atol=1e-6)

    def test_pictures_in_base64(self, client, digits, expected):
        rows = [b64(png(image)) for image in digits[:5]]
        found = client.post(PREDICT, json={"instances": rows}).json()["predictions"]
        np.testing.assert_allclose(found, expected[:5], atol=1e-6)

    def test_status(self, client):
        found = client.get("/v1/models/mnist").json()
        (status,) = found["model_version_status"]
        assert (status["version"], status["state"]) == ("1", "AVAILABLE")
        assert status["status"] == {"error_code": "OK", "error_message": ""}

    def test_metadata(self, client):
        found = client.get("/v1/models/mnist/metadata").json()
        assert found["model_spec"]["name"] == "mnist"
        serve = found["metadata"]["signature_def"]["signature_def"]["serve"]
        assert serve["inputs"]["images"]["dtype"] == "DT_UINT8"
        assert found["metadata"]["labels"] == list("0123456789")
        assert found["metadata"]["image_shape"] == [28, 28]


class TestPictures:
    def test_a_picture_as_it_is(self, client, digits):
        body = png(255 - digits[0], (300, 300))
        kind = {"content-type": "image/png"}
        found = client.post("/predict?top_k=2&pixels=true", content=body, headers=kind)
        assert found.status_code == 200
        answer = found.json()
        assert (answer["model"], answer["version"]) == ("mnist", "1")
        (row,) = answer["predictions"]
        assert row["label"] == row["top"][0]["label"] == "0"
        assert row["probability"] == row["top"][0]["probability"]
        assert len(row["top"]) == 2
        assert not row["rejected"]
        pixels = np.frombuffer(base64.b64decode(row["pixels"]), np.uint8)
        assert pixels.reshape(answer["image_shape"])[14].any()

    def test_an_array_as_it_is(self, client, digits, expected):
        rows = client.post("/predict", content=npy(digits[:50])).json()["predictions"]
        assert [int(row["label"]) for row in rows] == expected[:50].argmax(1).tolist()

    def test_an_uploaded_file(self, client, digits):
        files = {"file": ("three.png", png(digits[0]), "image/png")}
        rows = client.post("/predict", files=files).json()["predictions"]
        assert [row["label"] for row in rows] == ["0"]

    def test_a_blank_picture_has_no_label(self, client):
        body = png(np.full((60, 60), 255, np.uint8))
        (row,) = client.post("/predict", content=body).json()["predictions"]
        assert row["label"] is row["probability"] is None
        assert row["reason"] == "blank picture"
        assert not row["rejected"]

    def test_what_is_unsure_is_rejected(self, out, digits):
        with serving(out, "--reject_below=1") as strict:
            found = httpx.post(f"{strict.url}/predict", content=npy(digits[:1]))
        (row,) = found.json()["predictions"]
        assert row["label"] is None
        assert row["rejected"]
        assert row["top"][0]["label"] == "0"


def test_all_ways_to_ask_give_the_same_labels(client, digits, expected):
    labels = expected.argmax(1).tolist()
    for start in range(0, 200, 50):
        part = digits[start : start + 50]
        as_json = client.post(PREDICT, json={"instances": part.tolist()}).json()
        rows = [b64(png(image)) for image in part]
        as_png = client.post(PREDICT, json={"instances": rows}).json()
        as_npy = client.post("/predict", content=npy(part)).json()["predictions"]
        for found in (as_json, as_png):
            found = np.argmax(found["predictions"], axis=1)
            assert found.tolist() == labels[start : start + 50]
        assert [int(r["label"]) for r in as_npy] == labels[start : start + 50]


IMAGE = np.zeros((28, 28), int).tolist()


def instances(*rows):
    return orjson.dumps({"instances": rows})


FAULTS = {
    "empty": (b"", 400, "not JSON"),
    "no JSON": (b"[1, 2", 400, "not JSON"),
    "invalid UTF-8": (b'{"instances": "\xff"}', 400, "not JSON"),
    "no object": (b"[1, 2]", 400, "instances"),
    "neither": (b'{"instance": []}', 400, "either"),
    "both": (b'{"instances": [], "inputs": []}', 400, "either"),
    "null": (b'{"instances": null}', 400, "give a list"),
    "no instance": (b'{"instances": []}', 400, "at least one image"),
    "a null image": (instances(None), 400, "number"),
    "a null pixel": (instances([[None] * 28] * 28), 400, "number"),
    "strings": (instances([["1"] * 28] * 28), 400, "number"),
    "booleans": (instances([[True] * 28] * 28), 400, "true or false"),
    "ragged": (instances([[0] * 28] * 27 + [[0] * 27]), 400, "different lengths"),
    "27 x 28": (instances([[0] * 28] * 27), 400, "[1, 27, 28]"),
    "one number": (instances(5), 400, "shape"),
    "NaN": (b'{"instances": [[NaN]]}', 400, "not JSON"),
    "1e39": (instances([[1e39] * 28] * 28), 400, "values"),
    "1e400": (b'{"instances": [[1e400]]}', 400, ""),
    "a huge whole number": (b'{"instances": [[' + b"9" * 400 + b"]]}", 400, ""),
    "256": (instances([[256] * 28] * 28), 400, "to 256"),
    "-1": (instances([[-1] * 28] * 28), 400, "from -1"),
    "deep": (b'{"instances": ' + b"[" * 40_000, 400, "not JSON"),
    "deep and whole": (
        b'{"instances": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, ""),
    "broken base64": (instances({"b64": "*"}), 400, "not base64"),
    "base64 of no picture": (instances(b64(b"hello")), 400, "instances"),
    "base64 that is no text": (instances({"b64": 7}), 400, "base64"),
    "another key": (instances({"c64": ""}), 400, "c64"),
    "arrays and pictures": (instances(IMAGE, b64(b"")), 400, "either"),
    "another signature": (
        b'{"signature_name": "train", "instances": []}', 400, "'serve'"),
    "a signature that is no text": (
        b'{"signature_name": [1], "instances": []}', 400, "signature_name"),
    "too many instances": (instances(*[0] * 51), 413, "50"),
    "a large body": (b" " * 100_001, 413, "100,000"),
}  # fmt: skip

FILES = {
    "empty": (b"", 400, "empty"),
    "a truncated PNG": (png(np.zeros((99, 99), np.uint8))[:60], 400, "damaged"),
    "text": (b"hello", 400, "not a npy"),
    "objects": (npy(np.array([None, {}], object)), 400, "object"),
    "another shape": (npy(np.zeros((27, 28), np.uint8)), 400, "[27, 28]"),
    "too many": (npy(np.zeros((51, 28, 28), np.uint8)), 413, "50"),
    "10^12 elements": (
        npy(np.zeros((1, 28, 28), np.uint8)).replace(b"(1, 28, 28)", b"(9999999999, )")
        [:128], 400, ""),
}  # fmt: skip


def is_well(client):
    found = client.post(PREDICT, content=instances(IMAGE))
    assert found.status_code == 200
    assert client.get("/readyz").status_code == 200


def answered(found, status, words):
    assert found.status_code == status, found.text
    assert found.json().keys() == {"error"}
    assert words in found.json()["error"]


@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_a_body_that_is_wrong(client, fault):
    body, status, words = FAULTS[fault]
    answered(client.post(PREDICT, content=body), status, words)
    is_well(client)


@pytest.mark.fault
@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_is_wrong(client, fault):
    body, status, words = FILES[fault]
    answered(client.post("/predict", content=body), status, words)
    is_well(client)


REQUESTS = [
    ("POST", "/v1/models/other:predict", {}, 404, "'mnist'"),
    ("POST", "/v1/models/mnist/versions/2:predict", {}, 404, "it is 1"),
    ("GET", "/v1/models/other", {}, 404, "'mnist'"),
    ("GET", "/nowhere", {}, 404, "/docs"),
    ("GET", "/web/../serve.py", {}, 404, ""),
    ("GET", "/web/..%2f..%2fserve.py", {}, 404, ""),
    ("GET", "/web/%2e%2e", {}, 404, ""),
    ("GET", PREDICT, {}, 405, "method"),
    ("POST", "/healthz", {}, 405, "method"),
    ("DELETE", "/predict", {}, 405, "method"),
    ("POST", PREDICT, {"content-type": "text/html"}, 415, "application/json"),
    ("POST", "/predict", {"content-type": "text/html"}, 415, "image/png"),
    ("POST", "/predict", {"content-type": "multipart/form-data"}, 400, "form"),
    (
        "POST",
        "/predict",
        {"content-type": "multipart/form-data; boundary=x"},
        400,
        "form",
    ),
    ("POST", "/predict?top_k=0", {}, 400, "top_k"),
    ("POST", "/predict?top_k=x", {}, 400, "top_k"),
    ("POST", "/predict?preprocess=most", {}, 400, "preprocess"),
    ("POST", "/predict?pixels=1", {}, 400, "pixels"),
    ("POST", "/predict?topk=1", {}, 400, "topk"),
    ("GET", "/", {"x-large": "x" * 70_000}, 431, "headers"),
]


@pytest.mark.fault
@pytest.mark.parametrize(("method", "path", "headers", "status", "words"), REQUESTS)
def test_a_request_that_is_wrong(client, method, path, headers, status, words):
    answered(client.request(method, path, headers=headers), status, words)
    is_well(client)


def exchange(server, *parts, pause=0.0):
    """Sends bytes over a socket of its own; what comes back."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
        return found.decode()


HEAD = b"POST /v1/models/mnist:predict HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.fault
@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([HEAD], 408),
        ([b""], 408),
        ([HEAD + b"content-length: 50\r\n\r\n", b"{"], 408),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"], 408),
        (
            [
                HEAD + b"transfer-encoding: chunked\r\n\r\n",
                *[b"c350\r\n" + b" " * 50_000 + b"\r\n"] * 3,
                b"0\r\n\r\n",
            ],
            413,
        ),
        ([HEAD + b"content-length: 100001\r\n\r\n"], 413),
        ([b"hello\r\n\r\n"], 400),
        ([HEAD + b"content-length: -1\r\n\r\n"], 400),
        ([HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n"], 400),
    ],
)
def test_what_is_slow_or_no_http(server, client, parts, status):
    clock = time.monotonic()
    found = exchange(server, *parts)
    assert found.startswith(f"HTTP/1.1 {status} ")
    assert json.loads(found.partition("\r\n\r\n")[2])["error"]
    assert time.monotonic() - clock < 5
    is_well(client)


@pytest.mark.fault
def test_a_header_that_comes_letter_by_letter(server, client):
    letters = [bytes([letter]) for letter in HEAD]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert " 408 " in exchange(server, *letters, pause=0.05)
    is_well(client)


@pytest.mark.fault
def test_clients_that_leave(server, client):
    host, port = server.url.removeprefix("http://").split(":")
    body = instances(*[IMAGE] * 20)
    head = HEAD + f"content-length: {len(body)}\r\n\r\n".encode()
    for sent in (head + body, head + body[:99], head, HEAD[:20]):
        for _ in range(10):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(sent)
            connection.close()
    is_well(client)


@pytest.mark.fault
def test_a_burst_beyond_capacity_is_answered(out):
    with serving(out, "--max_queue=4", "--log_format=none") as busy:
        body = instances(*[IMAGE] * 30)

        async def burst():
            limits = httpx.Limits(max_connections=500)
            async with httpx.AsyncClient(
                base_url=busy.url, limits=limits, timeout=60
            ) as each:
                requests = [each.post(PREDICT, content=body) for _ in range(500)]
                return await asyncio.gather(*requests)

        found = asyncio.run(burst())
        assert {each.status_code for each in found} <= {200, 503}
        assert sum(each.status_code == 200 for each in found) > 4
        for each in found:
            if each.status_code == 503:
                assert each.headers["retry-after"] == "1"
        with httpx.Client(base_url=busy.url) as client:
            is_well(client)


@pytest.mark.fault
def test_more_connections_than_there_may_be(out):
    with serving(out, "--max_connections=3") as small:
        address = ("127.0.0.1", int(small.url.rpartition(":")[2]))
        held = [socket.create_connection(address) for _ in range(3)]
        time.sleep(0.2)
        found = exchange(small, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert found.startswith("HTTP/1.1 503 ")
        assert "retry-after: 1" in found
        for each in held:
            each.close()
        time.sleep(0.2)
        assert httpx.get(f"{small.url}/healthz").status_code == 200


class TestTheEnd:
    def test_what_is_in_flight_is_answered(self, out, digits):
        with serving(out) as ending:
            body = instances(*[image.tolist() for image in digits[:200]])
            started = threading.Barrier(21)

            def ask(_):
                started.wait()
                return httpx.post(ending.url + PREDICT, content=body, timeout=30)

            with concurrent.futures.ThreadPoolExecutor(20) as pool:
                answers = [pool.submit(ask, index) for index in range(20)]
                started.wait()
                time.sleep(0.05)
                ending.send_signal(signal.SIGTERM)
                assert [each.result().status_code for each in answers] == [200] * 20
            assert ending.wait(timeout=20) == 0
            assert "ends when all requests are answered" in ending.lines

    def test_meanwhile_it_is_not_ready(self, out):
        with serving(out, "--drain_seconds=2") as ending:
            assert httpx.get(f"{ending.url}/readyz").status_code == 200
            ending.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            found = httpx.get(f"{ending.url}/readyz")
            assert found.status_code == 503
            assert found.headers["retry-after"] == "1"
            assert httpx.get(f"{ending.url}/healthz").status_code == 200
            assert ending.wait(timeout=20) == 0

    def test_control_c_ends_it_too(self, out):
        with serving(out, "--drain_seconds=0") as ending:
            ending.send_signal(signal.SIGINT)
            assert ending.wait(timeout=20) == 0


@pytest.mark.fault
def test_a_port_that_is_taken(server, out):
    port = server.url.rpartition(":")[2]
    command = [sys.executable, "serve.py", f"--model_dir={out}", f"--port={port}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: host, port: 127.0.0.1, {port}: Address already in")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--port=many", "port: got 'many'"),
        ("--port=70000", "port"),
        ("--host=nowhere.invalid", "host, port: nowhere.invalid"),
        ("--max_queue=-1", "max_queue: got '-1'"),
        ("--answer_seconds=nan", "answer_seconds: got 'nan'"),
        ("--token_file=nowhere", "token_file: nowhere"),
        ("--log_format=xml", "log_format: got 'xml'"),
        ("--model_dir=nowhere", "train a model there first"),
        ("--name=a/b", "name: got 'a/b'"),
    ],
)
def test_flags_that_do_not_fit(out, flag, words):
    command = [sys.executable, "serve.py", f"--model_dir={out}", "--port=0", flag]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_token_is_asked_for(out, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with serving(out, f"--token_file={tmp_path}/token") as guarded:
        with httpx.Client(base_url=guarded.url) as client:
            for token in (None, "Bearer wrong", "Basic secret", "secret"):
                headers = {"authorization": token} if token else {}
                found = client.post(PREDICT, content=b"", headers=headers)
                answered(found, 401, "token")
                assert found.headers["www-authenticate"] == "Bearer"
            headers = {"authorization": "Bearer secret"}
            found = client.post(PREDICT, content=instances(IMAGE), headers=headers)
            assert found.status_code == 200
            assert client.get("/metrics").status_code == 401
            for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
                assert client.get(path).status_code == 200
        assert not any("secret" in line for line in guarded.lines)


def wait_until(holds):
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class TestWatch:
    @pytest.fixture
    def folder(self, out, tmp_path):
        shutil.copytree(out, tmp_path / "out")
        return tmp_path / "out"

    @pytest.fixture
    def other(self, tmp_path):
        folders = [f"--model_dir={tmp_path}/other", f"--log_dir={tmp_path}/logs"]
        flags = ["--epochs=1", "--filters=4,8", "--seed=2", *folders]
        train.main(["train.py", f"--flagfile={ROOT}/configs/smoke.cfg", *flags])
        return tmp_path / "other"

    def version(self, client):
        rows = client.get("/v1/models/mnist").json()["model_version_status"]
        return [(row["version"], row["state"]) for row in rows]

    def test_a_new_model_replaces_the_old_without_a_dropped_request(
        self, folder, other, digits
    ):
        with (
            serving(folder, "--watch", "--log_format=none") as watching,
            httpx.Client(base_url=watching.url) as client,
        ):
            codes, stop = [], threading.Event()

            def keep_asking():
                body = instances(IMAGE)
                with httpx.Client(base_url=watching.url) as asking:
                    while not stop.is_set():
                        codes.append(asking.post(PREDICT, content=body).status_code)

            asking = threading.Thread(target=keep_asking)
            asking.start()
            shutil.copytree(other, folder / ".incoming")
            wait_until(lambda: self.version(client) == [("2", "AVAILABLE")])
            stop.set()
            asking.join()
            assert set(codes) == {200}
            rows = {"instances": digits[:3].tolist()}
            found = client.post(PREDICT, json=rows).json()["predictions"]
            expected = Predictor(other).probabilities(digits[:3])
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert client.post(
                "/v1/models/mnist/versions/1:predict", json=rows
            ).status_code == 404  # fmt: skip

    def test_a_broken_one_leaves_the_old_and_says_so(self, folder, digits, expected):
        with (
            serving(folder, "--watch", "--log_format=none") as watching,
            httpx.Client(base_url=watching.url) as client,
        ):
            config = json.loads((folder / "config.json").read_text())
            config["files"]["model.tflite"] = "0" * 64
            (folder / "config.json").write_text(json.dumps(config))
            broken = [("2", "END"), ("1", "AVAILABLE")]
            wait_until(lambda: self.version(client) == broken)
            row = client.get("/v1/models/mnist").json()["model_version_status"][0]
            assert "is damaged" in row["status"]["error_message"]
            rows = {"instances": digits[:3].tolist()}
            found = client.post(PREDICT, json=rows).json()["predictions"]
            np.testing.assert_allclose(found, expected[:3], atol=1e-6)
            time.sleep(1.5)
            warnings = [line for line in watching.lines if "kept the old" in line]
            assert len(warnings) == 1

    def test_a_model_of_another_kind_is_not_taken(self, folder, tmp_path):
        with (
            serving(folder, "--watch", "--log_format=none") as watching,
            httpx.Client(base_url=watching.url) as client,
        ):
            config = json.loads((folder / "config.json").read_text())
            config["dataset"]["labels"][0] = "zero"
            (folder / "config.json").write_text(json.dumps(config))
            wait_until(lambda: self.version(client)[0] == ("2", "END"))
            row = client.get("/v1/models/mnist").json()["model_version_status"][0]
            assert "labels were" in row["status"]["error_message"]


class TestWhatItTells:
    def test_metrics(self, out, digits):
        with serving(out) as counted, httpx.Client(base_url=counted.url) as client:
            body = npy(digits[:3])
            client.post("/predict", content=body)
            client.post("/predict", content=b"")
            text = client.get("/metrics").text
        assert 'mnist_tf_errors_total{status="400"} 1.0' in text
        assert 'mnist_tf_predictions_total{label="0"} 3.0' in text
        assert 'mnist_tf_request_seconds_count{route="/predict"} 2.0' in text
        assert "mnist_tf_batch_images_sum 3.0" in text
        assert "mnist_tf_queue_requests 0.0" in text
        assert "mnist_tf_model_version 1.0" in text

    @pytest.mark.parametrize("form", ["text", "json", "none"])
    def test_a_line_for_each_request(self, out, form):
        with serving(out, f"--log_format={form}", "--drain_seconds=0") as logged:
            httpx.get(f"{logged.url}/healthz")
            httpx.get(f"{logged.url}/a%0Ab%1b[31m")
            logged.send_signal(signal.SIGTERM)
            logged.wait()
            time.sleep(0.2)
            lines = [
                line for line in logged.lines if "127.0.0.1 " in line or "{" in line
            ]
        if form == "none":
            assert not lines
        elif form == "json":
            first, second = map(json.loads, lines)
            assert (first["path"], first["status"]) == ("/healthz", 200)
            assert second["path"] == "/a\nb\x1b[31m"
        else:
            assert " GET /healthz 200 " in lines[0]
            assert "\\n" in lines[1]
            assert "\x1b" not in "".join(lines)

    def test_every_answer_has_the_headers_of_security(self, client):
        for path in ("/", "/nowhere", "/healthz", "/docs"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"

    def test_the_interface_is_described(self, client):
        found = client.get("/openapi.json").json()
        assert found["openapi"] == "3.1.0"
        text = client.get("/docs").text
        for path in found["paths"]:
            assert path in text
        assert "http://" not in text
        assert "https://" not in text


def test_it_needs_no_tensorflow(server):
    maps = Path(f"/proc/{server.pid}/maps")
    if not maps.exists():
        pytest.skip("tells nothing of a process here")
    assert "tensorflow" not in maps.read_text().lower()
