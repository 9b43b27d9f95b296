"""Slow, malformed and too many connections do no harm; a shutdown drops no request."""

import asyncio
import concurrent.futures
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest

from tests.conftest import ROOT
from tests.serving.conftest import (
    BLANK,
    PREDICT,
    assert_healthy,
    instances,
    running_server,
)

HEAD = b"POST /v1/models/mnist:predict HTTP/1.1\r\nhost: x\r\n"
ENDING = HEAD + b"connection: close\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def exchange(server, *parts, pause=0.0):
    """Sends bytes over a new connection and returns the response."""
    with connect(server) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        found = b""
        while chunk := connection.recv(65536):
            found += chunk
        return found.decode()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ([HEAD], "408 Request Timeout"),
        ([b""], "408 Request Timeout"),
        ([HEAD + b"content-length: 50\r\n\r\n", b"{"], "408 "),
        ([CHUNKED, b"5\r\nhello\r\n"], "408 "),
        ([CHUNKED, *[b"c350\r\n" + b" " * 50_000 + b"\r\n"] * 3, b"0\r\n\r\n"], "413 "),
        ([HEAD + b"content-length: 100001\r\n\r\n"], "413 "),
        ([b"hello\r\n\r\n"], "400 Bad Request"),
        ([b"GET http://host HTTP/1.1\r\nhost: x\r\n\r\n"], "400 Bad Request"),
        ([HEAD + b"content-length: -1\r\n\r\n"], "400 Bad Request"),
        ([HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n"], "400 "),
        ([ENDING + b"content-length: " + b"0" * 5000 + b"3\r\n\r\n{}{"], "400 "),
        # Headers after the body.
        ([CHUNKED, b"0\r\n", *[b"x: " + b"y" * 30_000 + b"\r\n"] * 3], "431 "),
        ([CHUNKED, b"0\r\nx: ", *[b"y" * 30_000] * 3], "431 "),
    ],
)
def test_a_slow_or_malformed_request(server, client, parts, status):
    start = time.monotonic()
    found = exchange(server, *parts)
    assert found.startswith(f"HTTP/1.1 {status}")
    assert json.loads(found.partition("\r\n\r\n")[2])["error"]
    assert time.monotonic() - start < 5
    assert_healthy(client)


@pytest.mark.parametrize("bad", [b"hello", b"GET http://host HTTP/1.1\r\nhost: x"])
def test_the_error_of_a_request_waits_for_the_response_before_it(server, bad):
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    found = exchange(server, get + bad + b"\r\n\r\n")
    assert re.findall(r"HTTP/1.1 (\d+)", found) == ["200", "400"]


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_headers_may_end_in_two_pieces(server, cut):
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n\r\n"
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    rest = head[-cut:] + b"a\r\nupgrade: x" + get
    found = exchange(server, head[:-cut], rest, pause=0.1)
    assert re.findall(r"HTTP/1.1 (\d+)", found) == ["400", "200"]


def test_a_trailer_is_no_header(server):
    body = instances(BLANK)
    request = ENDING + b"content-type: application/json\r\ntransfer-encoding: chunked"
    request += f"\r\n\r\n{len(body):x}\r\n".encode() + body
    request += b"\r\n0\r\ncontent-type: image/png\r\n\r\n"
    assert exchange(server, request).startswith("HTTP/1.1 200 ")


def test_each_request_of_a_connection_may_offer_http_2(server):
    get = b"GET /healthz HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\n"
    close = get + b"connection: close\r\n\r\n"
    together = exchange(server, (get + b"\r\n") * 2 + close)
    apart = exchange(server, get + b"\r\n", get + b"\r\n", close, pause=0.1)
    for found in (together, apart):
        assert re.findall(r"HTTP/1.1 (\d+)", found) == ["200"] * 3


def test_a_body_of_ends_of_headers_is_read_fast(model_dir):
    with running_server(model_dir) as server:
        process = psutil.Process(server.pid)
        before = sum(process.cpu_times()[:2])
        body = b"\r\n" * 2**22
        found = httpx.post(f"{server.url}/predict", content=body)
        assert found.status_code == 400
        assert sum(process.cpu_times()[:2]) - before < 1


@pytest.mark.fault
def test_headers_that_arrive_byte_by_byte(server, client):
    parts = [bytes([byte]) for byte in HEAD]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert " 408 " in exchange(server, *parts, pause=0.05)
    assert_healthy(client)


@pytest.mark.fault
def test_clients_that_disconnect(server, client):
    body = instances(*[BLANK] * 20)
    head = HEAD + f"content-length: {len(body)}\r\n\r\n".encode()
    for sent in (head + body, head + body[:99], head, HEAD[:20]):
        for _ in range(10):
            with connect(server) as connection:
                connection.sendall(sent)
    assert_healthy(client)


def test_pipelined_requests_are_answered_in_order(server):
    spaced = instances(BLANK).replace(b",", b",\r\n\r\n")  # like the end of headers
    post = HEAD + f"content-length: {len(spaced)}\r\n\r\n".encode() + spaced
    gets = [f"GET /v1/models/{i} HTTP/1.1\r\nhost: x\r\n\r\n" for i in range(500)]
    close = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    sent = b"".join(post + get.encode() for get in gets) + close
    with connect(server) as connection:
        sending = threading.Thread(target=connection.sendall, args=[sent])
        sending.start()
        found = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        sending.join()
    expected = [("200", '"predictions"'), ("404", "")] * 500 + [("200", '"status"')]
    assert (
        re.findall(r'HTTP/1.1 (\d+) [^{]*{("predictions"|"status")?', found) == expected
    )
    assert re.findall(r"no model '(\d+)'", found) == [str(i) for i in range(500)]


@pytest.mark.fault
def test_clients_that_pipeline_requests_and_never_read(model_dir):
    with running_server(model_dir, "--log_format=none") as server:
        process = psutil.Process(server.pid)
        assert httpx.get(server.url).status_code == 200
        start, most = process.memory_info().rss, 0
        clients = [connect(server) for _ in range(20)]

        def flood(client):
            with contextlib.suppress(ConnectionError):
                client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 5000)

        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            pool.map(flood, clients)
            deadline = time.monotonic() + 60
            while any(
                each.status == "ESTABLISHED" for each in process.net_connections()
            ):
                assert time.monotonic() < deadline  # it disconnects them
                most = max(most, process.memory_info().rss)
                time.sleep(0.1)
        for client in clients:
            client.close()
        assert most - start < 40 * 2**20
        with httpx.Client(base_url=server.url) as client:
            assert_healthy(client)
        assert len(server.lines) == 1  # no traceback


@pytest.mark.fault
def test_a_burst_beyond_the_queue_gets_503(model_dir):
    flags = ["--max_queue_size=4", "--log_format=none"]
    with running_server(model_dir, *flags) as server:
        body = instances(*[BLANK] * 30)

        async def burst():
            limits = httpx.Limits(max_connections=500)
            async with httpx.AsyncClient(
                base_url=server.url, limits=limits, timeout=60
            ) as client:
                requests = [client.post(PREDICT, content=body) for _ in range(500)]
                return await asyncio.gather(*requests)

        responses = asyncio.run(burst())
        assert {each.status_code for each in responses} <= {200, 503}
        assert sum(each.status_code == 200 for each in responses) > 4
        for response in responses:
            if response.status_code == 503:
                assert response.headers["retry-after"] == "1"
        with httpx.Client(base_url=server.url) as client:
            assert_healthy(client)


@pytest.mark.fault
def test_connections_beyond_the_limit_get_503(model_dir):
    with running_server(model_dir, "--max_connections=3") as server:
        connections = [connect(server) for _ in range(3)]
        time.sleep(0.2)
        found = exchange(server, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert found.startswith("HTTP/1.1 503 Service Unavailable")
        assert "retry-after: 1" in found
        for connection in connections:
            connection.close()
        time.sleep(0.2)
        assert httpx.get(f"{server.url}/healthz").status_code == 200


class TestShutdown:
    def test_requests_in_flight_are_answered(self, model_dir, digits):
        with running_server(model_dir) as server:
            body = instances(*[image.tolist() for image in digits[:200]])
            started = threading.Barrier(21)
            # Before the signal: on a busy machine a new client takes a while.
            clients = [httpx.Client(timeout=30) for _ in range(20)]

            def post(client):
                started.wait()
                return client.post(server.url + PREDICT, content=body)

            with concurrent.futures.ThreadPoolExecutor(20) as pool:
                responses = [pool.submit(post, client) for client in clients]
                started.wait()
                time.sleep(0.05)
                server.send_signal(signal.SIGTERM)
                assert [each.result().status_code for each in responses] == [200] * 20
            assert server.wait(timeout=20) == 0
            assert "shutting down" in server.lines

    def test_a_draining_server_is_alive_but_not_ready(self, model_dir):
        with running_server(model_dir, "--drain_seconds=2") as server:
            assert httpx.get(f"{server.url}/readyz").status_code == 200
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            response = httpx.get(f"{server.url}/readyz")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            response = httpx.get(f"{server.url}/healthz")
            assert response.status_code == 200
            # The next request of this client finds another server.
            assert response.headers["connection"] == "close"
            assert server.wait(timeout=20) == 0

    def test_a_second_signal_skips_draining(self, model_dir):
        with running_server(model_dir, "--drain_seconds=60") as server:
            server.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=20) == 0

    def test_sigint_shuts_down_too(self, model_dir):
        with running_server(model_dir, "--drain_seconds=0") as server:
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=20) == 0


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--port=PORT", "cannot listen on 127.0.0.1:PORT (Address already in use); "),
        ("--port=many", "--port must be"),
        ("--port=70000", "--port must be"),
        ("--host=nowhere.invalid", "cannot listen on nowhere.invalid:0 ("),
        ("--max_queue_size=-1", "--max_queue_size must be"),
        ("--response_timeout=nan", "--response_timeout must be"),
        ("--token_file=nowhere", "--token_file nowhere cannot be read"),
        ("--log_format=xml", "--log_format must be one of text, json, none"),
        ("--model_dir=nowhere", "nowhere"),
        ("--model_name=a/b", "--model_name must be"),
    ],
)
def test_an_invalid_flag(server, model_dir, flag, words):
    port = server.url.rpartition(":")[2]
    flags = [f"--model_dir={model_dir}", "--port=0", flag.replace("PORT", port)]
    command = [sys.executable, "serve.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert words.replace("PORT", port) in line


UPGRADE = b"connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nhttp2-settings: \r\n"


@pytest.mark.parametrize("apart", [False, True])
def test_an_offer_of_http2_is_ignored(server, apart):
    body = instances(BLANK)
    head = HEAD + UPGRADE + f"content-length: {len(body)}\r\n\r\n".encode()
    parts = [head, body] if apart else [head + body]
    with connect(server) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.1)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.fault
def test_a_body_is_no_request_of_its_own(server):
    """Where the header of an upgrade comes in parts, and is seen too late."""
    hidden = b"GET /v1/models/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    length = f"content-length: {len(hidden)}\r\n\r\n".encode()
    cut = UPGRADE.index(b"Upgrade:") + 3
    start, rest = HEAD + UPGRADE[:cut], UPGRADE[cut:] + length
    found = exchange(server, start, rest, hidden, pause=0.1)
    assert found.startswith("HTTP/1.1 400 ")
    assert found.count("\r\n\r\n") == 1
    assert not any("smuggled" in line for line in server.lines)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("request_head", "more"),
    [
        (b"POST /nope HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\n", b"x"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n"),
    ],
)
def test_a_connection_without_a_request_is_closed(server, request_head, more):
    with connect(server) as connection:
        connection.sendall(request_head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 ")
        connection.sendall(more)
        start = time.monotonic()
        while connection.recv(65536):
            pass
        assert time.monotonic() - start < 5
