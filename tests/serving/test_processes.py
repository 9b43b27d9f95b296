"""Several processes answer on one port and end together."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import httpx
import psutil
import pytest

from tests.conftest import ROOT
from tests.serving.conftest import BLANK, PREDICT, instances, running_server
from tests.serving.test_served_model import wait_until


def children(server):
    return {child.pid for child in psutil.Process(server.pid).children()}


def ask(url, connections):
    """Asks once over each of so many connections."""
    clients = [httpx.Client(base_url=url) for _ in range(connections)]
    codes = {
        each.post(PREDICT, content=instances(BLANK)).status_code for each in clients
    }
    for client in clients:
        client.close()
    return codes


def metric(url, name):
    text = httpx.get(f"{url}/metrics").text
    return float(re.search(rf"^{re.escape(name)} (.*)$", text, re.M)[1])


def requests(server, process):
    """The number of connections that a process has accepted and not closed."""
    port = int(server.url.rpartition(":")[2])
    connections = psutil.Process(process).net_connections("tcp")
    return sum(each.laddr.port == port and bool(each.raddr) for each in connections)


def ended(code, folder):
    """Runs Python code that starts processes; returns its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def server(model_dir):
    with running_server(model_dir, "--workers=2", "--log_format=none") as server:
        yield server


def test_all_processes_answer_and_their_metrics_are_added_up(server):
    assert len(children(server)) == 2
    clients = [httpx.Client(base_url=server.url) for _ in range(40)]
    for client in clients:
        assert client.post(PREDICT, content=instances(BLANK)).status_code == 200
    shares = [requests(server, process) for process in children(server)]
    assert sum(shares) == 40
    assert min(shares) > 0
    count = 'mnist_tf_request_seconds_count{route="/v1/models/{name}:predict"}'
    assert metric(server.url, count) == 40
    assert metric(server.url, "mnist_tf_batch_images_sum") == 40
    assert metric(server.url, "mnist_tf_model_version") == 1
    assert metric(server.url, "mnist_tf_queue_requests") == 0
    for client in clients:
        client.close()


def test_a_process_that_is_killed_is_replaced(server):
    before = children(server)
    ask(server.url, 10)
    killed = before.pop()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(children(server)) == 2 and killed not in children(server))
    line = f"process {killed} ended unexpectedly; starting another"
    wait_until(lambda: line in server.lines)
    # The new one answers, and what the old one counted is kept.
    time.sleep(1)
    assert ask(server.url, 20) == {200}
    assert metric(server.url, "mnist_tf_batch_images_sum") == 30


def test_the_end_of_a_process_that_is_none_of_them_changes_nothing(tmp_path):
    # As that of an orphan, where the server is the first process of a container.
    code = """
        import os, subprocess, sys, time
        from mnist_tf.serving import processes

        other = subprocess.Popen(["sleep", "0.5"])

        def serve(started):
            started()
            time.sleep(60)

        def watch():
            if not os.fork():
                time.sleep(1.5)
                os.kill(os.getppid(), 15)
                os._exit(0)

        sys.exit(processes.run(2, serve, watch, lambda: print("draining")))
    """
    assert ended(code, tmp_path) == (0, "draining\n", "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes(server, signum):
    processes = children(server)
    server.send_signal(signum)
    assert server.wait(10) == 0
    assert not any(map(psutil.pid_exists, processes))
    time.sleep(0.2)
    assert server.lines[-1] == "shutting down"
    assert [line for line in server.lines if "serving" in line] == [
        f"serving {server.url}/"
    ]


def test_a_signal_right_after_the_start_of_a_process_ends_it_too(tmp_path):
    code = """
        import os, signal, sys, time
        from mnist_tf.serving import processes

        def fork(forked=os.fork):
            process = forked()
            if process:
                os.kill(os.getpid(), signal.SIGTERM)
            return process

        os.fork = fork
        sleep = lambda started: time.sleep(60)
        sys.exit(processes.run(2, sleep, lambda: None, lambda: print("draining")))
    """
    code, out, err = ended(code, tmp_path)
    assert (code, out) == (0, "draining\n"), err


def test_processes_end_with_the_first_one(server):
    processes = children(server)
    server.kill()
    wait_until(lambda: not any(map(psutil.pid_exists, processes)))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--model_dir=none"], "error: --model_dir none does not exist; train a model"),
        (["--port={}"], "error: cannot listen on 127.0.0.1:"),
    ],
)
def test_processes_that_cannot_start_end_the_server(server, model_dir, flags, line):
    taken = server.url.rpartition(":")[2]
    flags = [flag.format(taken) for flag in flags]
    command = [sys.executable, "serve.py", f"--model_dir={model_dir}", "--port=0"]
    done = subprocess.run(
        [*command, "--workers=2", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert "Traceback" not in done.stderr
