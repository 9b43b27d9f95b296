"""An invalid request gets an error that says what is wrong; the server runs on."""

import base64
import io

import httpx
import numpy as np
import orjson
import pytest

from tests.serving.conftest import (
    BLANK,
    PREDICT,
    assert_error,
    assert_healthy,
    instances,
    npy,
    png,
    running_server,
)


def npz(**arrays):
    """Encodes arrays in NumPy's npz format, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


ROWS = [[9] * 28] * 27  # all but one of an image
NOT_AN_IMAGE = {"b64": base64.b64encode(b"hello").decode()}

BODIES = {
    "empty": (b"", 400, "not valid JSON"),
    "not JSON": (b"[1, 2", 400, "not valid JSON"),
    "invalid UTF-8": (b'{"instances": "\xff"}', 400, "not valid JSON"),
    "not an object": (b"[1, 2]", 400, "instances"),
    "neither key": (b'{"instance": []}', 400, "either"),
    "both keys": (b'{"instances": [], "inputs": []}', 400, "either"),
    "null": (b'{"instances": null}', 400, "a list"),
    "no image": (b'{"instances": []}', 400, "at least one image"),
    "a null image": (instances(None), 400, "number"),
    "a null pixel": (instances([[None] * 28] * 28), 400, "number"),
    "strings": (instances([["1"] * 28] * 28), 400, "number"),
    "booleans": (instances([[True] * 28] * 28), 400, "true or false"),
    "true for 1": (instances([*ROWS, [9] * 27 + [True]]), 400, "true or false"),
    "false for 0": (
        b'{"inputs": ' + orjson.dumps([[*ROWS, [9] * 27 + [False]]]) + b"}",
        400, "inputs must hold numbers only (got true or false)"),
    "true in an object": (
        instances({"images": [*ROWS, [True] * 28]}), 400, "true or false"),
    "28 for a row of 28 zeros": (instances([*ROWS, 28]), 400, "rows of numbers"),
    "a huge number for a row": (instances([10**12]), 400, "[1, 1]"),
    "ragged rows": (instances([[0] * 28] * 27 + [[0] * 27]), 400, "the same length"),
    "27 x 28": (instances([[0] * 28] * 27), 400, "[1, 27, 28]"),
    "27 x 28, grey": (instances([[9] * 28] * 27), 400, "[1, 27, 28]"),
    "28 x 27, grey": (instances([[9] * 27] * 28), 400, "[1, 28, 27]"),
    "one number": (instances(5), 400, "shape"),
    "NaN": (b'{"instances": [[NaN]]}', 400, "not valid JSON"),
    "1e39": (instances([[1e39] * 28] * 28), 400, "instances"),
    "1e400": (b'{"instances": [[1e400]]}', 400, ""),
    "a huge integer": (b'{"instances": [[' + b"9" * 400 + b"]]}", 400, ""),
    "256": (instances([[256] * 28] * 28), 400, "256"),
    "-1": (instances([[-1] * 28] * 28), 400, "-1"),
    "deep": (b'{"instances": ' + b"[" * 40_000, 400, "not valid JSON"),
    "deep and closed": (
        b'{"instances": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400, ""),
    "invalid base64": (instances({"b64": "*"}), 400, "not valid base64"),
    "base64 of text": (instances(NOT_AN_IMAGE), 400, "instances"),
    "base64 as a number": (instances({"b64": 7}), 400, "not valid base64"),
    "an unknown key": (instances({"c64": ""}), 400, "c64"),
    "arrays and files": (instances(BLANK, {"b64": ""}), 400, "image files only"),
    "an unknown signature": (
        b'{"signature_name": "train", "instances": []}', 400, "'serve'"),
    "a signature as a list": (
        b'{"signature_name": [1], "instances": []}', 400, "signature_name"),
    "an unknown output": (
        b'{"output_filter": ["logits"], "instances": [[0]]}', 400,
        "probabilities or typicality"),
    "an output that is no list": (
        b'{"output_filter": "typicality", "instances": [[0]]}', 400, "output_filter"),
    "an output that is a list": (
        b'{"output_filter": [["typicality"]], "instances": [[0]]}', 400,
        "output_filter"),
    "no output": (b'{"output_filter": [], "instances": [[0]]}', 400, "(got [])"),
    "too many images": (instances(*[0] * 51), 413, "at most 50"),
    "a long text": (instances("a" * 90_000, *["b"] * 49), 400, "numbers only"),
    "numbers and a text": (instances(*[0] * 49, "a" * 90_000), 400, "numbers only"),
    "too large": (b" " * 100_001, 413, "100,000"),
}  # fmt: skip

FILES = {
    "empty": (b"", 400, "empty"),
    "a truncated PNG": (png(np.zeros((99, 99), np.uint8))[:60], 400, "damaged"),
    "text": (b"hello", 400, "npy"),
    "objects": (npy(np.array([None, {}], object)), 400, "object"),
    "another shape": (npy(np.zeros((27, 28), np.uint8)), 400, "[27, 28]"),
    "too many images": (npy(np.zeros((51, 28, 28), np.uint8)), 413, "at most 50"),
    "a small archive of much": (
        npz(images=np.zeros((100_000, 28, 28), np.uint8)), 400, "bytes"),
    "10^10 elements": (
        npy(np.zeros((1, 28, 28), np.uint8)).replace(b"(1, 28, 28)", b"(9999999999, )")
        [:128], 400, ""),
}  # fmt: skip

FORM = {"content-type": "multipart/form-data"}
FORM_WITHOUT_PARTS = {"content-type": "multipart/form-data; boundary=x"}
LONG_BOUNDARY = {"content-type": f"multipart/form-data; boundary={'x' * 400}"}
HTML = {"content-type": "text/html"}
REQUESTS = [
    ("POST", "/v1/models/other:predict", {}, 404, "'mnist'"),
    ("POST", "/v1/models/mnist/versions/2:predict", {}, 404, "current version is 1"),
    ("GET", "/v1/models/other", {}, 404, "'mnist'"),
    ("GET", "/nowhere", {}, 404, "/docs"),
    ("GET", "/web/nothing.css", {}, 404, "/docs"),
    ("GET", "/web/../serve.py", {}, 404, ""),
    ("GET", "/web/..%2f..%2fserve.py", {}, 404, ""),
    ("GET", "/web/%2e%2e", {}, 404, ""),
    ("GET", PREDICT, {}, 405, "method"),
    ("GET", "/v1/models/mnist/versions/1:predict", {}, 405, "method"),
    ("POST", "/healthz", {}, 405, "method"),
    ("DELETE", "/predict", {}, 405, "method"),
    ("POST", PREDICT, HTML, 415, "application/json"),
    ("POST", "/predict", HTML, 415, "image/png"),
    ("POST", "/predict", FORM, 400, "form"),
    ("POST", "/predict", FORM_WITHOUT_PARTS, 400, "form"),
    ("POST", "/predict", LONG_BOUNDARY, 400, "form"),
    ("POST", "/predict/", {}, 404, "/docs"),
    ("POST", "/predict?top_k=0", {}, 400, "top_k"),
    ("POST", "/predict?top_k=x", {}, 400, "top_k"),
    ("POST", "/predict?preprocess=most", {}, 400, "preprocess"),
    ("POST", "/predict?pixels=1", {}, 400, "pixels"),
    ("POST", "/predict?topk=1", {}, 400, "did you mean 'top_k'"),
    ("GET", "/", {"x-large": "x" * 70_000}, 431, "headers"),
]


@pytest.mark.fault
@pytest.mark.parametrize("fault", BODIES)
def test_an_invalid_body(client, fault):
    body, status, words = BODIES[fault]
    assert_error(client.post(PREDICT, content=body), status, words)
    assert_healthy(client)


def test_true_beside_the_images_is_allowed(client):
    body = {"debug": True, "instances": [[*ROWS, [9] * 28]]}
    assert client.post(PREDICT, json=body).status_code == 200


@pytest.mark.fault
@pytest.mark.parametrize("fault", FILES)
def test_an_invalid_file(client, fault):
    body, status, words = FILES[fault]
    assert_error(client.post("/predict", content=body), status, words)
    assert_healthy(client)


@pytest.mark.fault
@pytest.mark.parametrize("parts", [0, 2])
def test_a_form_has_one_part(client, parts):
    part = b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n'
    body = part * parts + b"--x--\r\n"
    found = client.post("/predict", content=body, headers=FORM_WITHOUT_PARTS)
    assert_error(found, 400, "form")
    assert_healthy(client)


@pytest.mark.fault
@pytest.mark.parametrize(("method", "path", "headers", "status", "words"), REQUESTS)
def test_an_invalid_request(client, method, path, headers, status, words):
    assert_error(client.request(method, path, headers=headers), status, words)
    assert_healthy(client)


def test_an_error_repeats_little_of_the_body(client):
    body = orjson.dumps({"signature_name": "x" * 50_000, "instances": [BLANK]})
    found = client.post(PREDICT, content=body)
    assert found.status_code == 400
    assert len(found.content) < 300


def test_the_scheme_of_a_token_is_in_either_case(model_dir, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    with running_server(model_dir, f"--token_file={tmp_path / 'token'}") as server:
        for scheme, status in (("bearer", 200), ("Bearer", 200), ("Basic", 401)):
            headers = {"authorization": f"{scheme} secret"}
            found = httpx.get(f"{server.url}/metrics", headers=headers)
            assert found.status_code == status
