"""Metrics count requests and predictions; the access log has a line per request."""

import json
import re
import signal
import time

import httpx
import pytest

from tests.serving.conftest import npy, running_server


def test_metrics(model_dir, digits):
    with (
        running_server(model_dir) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        client.post("/predict", content=npy(digits[:3]))
        client.post("/predict", content=b"")
        text = client.get("/metrics").text
    assert 'mnist_tf_errors_total{status="400"} 1.0' in text
    assert 'mnist_tf_predictions_total{label="0"} 3.0' in text
    assert 'mnist_tf_request_seconds_count{route="/predict"} 2.0' in text
    assert "mnist_tf_batch_images_sum 3.0" in text
    limits = re.findall(r'batch_images_bucket\{le="(.*)"\}', text)
    assert limits == [*(f"{2**power}.0" for power in range(11)), "+Inf"]
    assert "mnist_tf_queue_requests 0.0" in text
    assert "mnist_tf_model_version 1.0" in text


@pytest.mark.parametrize("log_format", ["text", "json", "none"])
def test_the_access_log(model_dir, log_format):
    flags = [f"--log_format={log_format}", "--drain_seconds=0"]
    with running_server(model_dir, *flags) as server:
        httpx.get(f"{server.url}/healthz")
        httpx.get(f"{server.url}/a%0Ab%1b[31m")
        server.send_signal(signal.SIGTERM)
        server.wait()
        time.sleep(0.2)
        lines = [line for line in server.lines if "127.0.0.1 " in line or "{" in line]
    if log_format == "none":
        assert not lines
    elif log_format == "json":
        first, second = map(json.loads, lines)
        assert (first["path"], first["status"]) == ("/healthz", 200)
        assert second["path"] == "/a\nb\x1b[31m"
    else:
        assert " GET /healthz 200 " in lines[0]
        assert "\\n" in lines[1]
        assert "\x1b" not in "".join(lines)
