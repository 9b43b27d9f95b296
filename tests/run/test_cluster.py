"""The cluster that the environment describes, and the workers' own connections."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mnist_tf.cli.launch import free_ports
from mnist_tf.errors import UserError
from mnist_tf.run import cluster

ROOT = Path(__file__).parents[2]


def described(addresses, index=0, kind="worker"):
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}


def test_tf_config_names_the_workers_and_which_one_this_is():
    assert cluster.find({}) is None
    assert cluster.find({"TF_CONFIG": "{}"}) is None
    found = cluster.find(described(["a:1", "b:2"], 1))
    assert found == cluster.Cluster(("a:1", "b:2"), 1)
    tasks = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    for kind, index, place in (("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)):
        content = {"cluster": tasks, "task": {"type": kind, "index": index}}
        found = cluster.find({"TF_CONFIG": json.dumps(content)})
        assert found == cluster.Cluster(("a:1", "b:2", "c:3"), place)


def test_slurm_names_the_workers_and_which_one_this_is():
    # As srun sets them for two tasks on each of two nodes.
    variables = {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[07-08]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURM_PROCID": "3",
    }
    code = """
        from mnist_tf.run import cluster
        found = cluster.find()
        print(found.index, *found.addresses)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    ports = "node07:8888 node07:8889 node08:8888 node08:8889"
    assert done.stdout.strip() == f"3 {ports}", done.stderr


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "object has no attribute"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "its task must have a type"),
        ('{"cluster": {"ps": ["a:1"]}}', "its tasks must be chief and worker, not ps"),
        (described(["a:1", "b"])["TF_CONFIG"], "'b' is not host:port"),
        (described(["a:1", "b:99999"])["TF_CONFIG"], "'b:99999' is not host:port"),
        (described(["a:1", "a:1"])["TF_CONFIG"], "two tasks have the same address"),
        (
            described(["a:1", "b:2"], 2)["TF_CONFIG"],
            "2 tasks of type worker, not",
        ),
        (described(["a:1"], 0, "evaluator")["TF_CONFIG"], "a type, chief or worker"),
        (described(["a:1", "b:2"], "1")["TF_CONFIG"], "and an index"),
    ],
)
def test_a_tf_config_that_names_no_cluster_is_refused(text, reason):
    with pytest.raises(UserError, match="TF_CONFIG cannot be used") as caught:
        cluster.find({"TF_CONFIG": text})
    assert reason in str(caught.value)
    assert f"(got {text!r})" in str(caught.value)


@contextlib.contextmanager
def connected(count):
    """Yields the workers of a cluster, each of which is this process."""
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(count))
    workers = [
        cluster.ConnectedWorkers(cluster.Cluster(addresses, index))
        for index in range(count)
    ]
    together([lambda each=each: each.connect(20) for each in workers])
    try:
        yield workers
    finally:
        for worker in workers:
            worker.leave(0)


def together(calls):
    """Makes all calls at the same time and returns their results."""
    results = [None] * len(calls)

    def call(index):
        results[index] = calls[index]()

    threads = [threading.Thread(target=call, args=[i]) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_workers_gather_what_each_of_them_says():
    with connected(3) as workers:
        for value in (["a", 1], None, "é\n"):
            calls = [
                lambda each=each, value=value: each.gather([each.index, value])
                for each in workers
            ]
            expected = [[index, value] for index in range(3)]
            assert together(calls) == [expected] * 3


def test_a_signal_to_one_worker_reaches_the_others():
    with connected(3) as workers:
        received = [[], [], []]
        for each in workers:
            each.on_signal(
                lambda signum, mine=received[each.index]: mine.append(signum)
            )
        workers[2].tell(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not (received[0] and received[1]) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert received == [[signal.SIGTERM], [signal.SIGTERM], []]


def test_a_worker_that_has_ended_does_not_cut_others_off():
    with connected(3) as workers:
        received = []
        workers[2].on_signal(received.append)
        workers[1].leave(0)
        time.sleep(0.3)
        workers[0].tell(signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not received and time.monotonic() < deadline:
            time.sleep(0.01)
    assert received == [signal.SIGTERM]


def test_one_process_alone_needs_no_connection():
    for found in (None, cluster.Cluster(("a:1",), 0)):
        with cluster.joined(found, 1) as workers:
            assert (workers.chief, workers.count) == (True, 1)
            assert workers.gather("it") == ["it"]


def worker(addresses, index, body, timeout=20):
    """Starts a process that joins the cluster and then runs some code."""
    code = f"""
        import signal, sys, time
        from mnist_tf.cli.main import run
        from mnist_tf.run import cluster
        def main(argv):
            found = cluster.Cluster({tuple(addresses)}, {index})
            with cluster.joined(found, {timeout}) as workers:
                print("joined", flush=True)
                {body}
        run(main)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # or the system may wake one that is stopped
    )


@pytest.mark.fault
def test_the_chief_names_who_was_lost_and_not_who_ended_for_it():
    slow = """forward = type(workers)._forward
                type(workers)._forward = lambda *given: (
                    forward(*given), time.sleep(given[1] == 1))
                workers.gather(0)"""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    bodies = [slow, "time.sleep(1); signal.raise_signal(9)", "time.sleep(60)"]
    processes = [worker(addresses, i, body) for i, body in enumerate(bodies)]
    errors = [process.communicate(timeout=30)[1] for process in processes]
    for index in (0, 2):
        assert errors[index].startswith(f"error: worker 1 ({addresses[1]}) was lost")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("end", "line", "code"),
    [
        ("signal.raise_signal(9)", "worker 1 ({}) was lost (its connection", 1),
        ("from mnist_tf.errors import UserError; raise UserError('no room')",
         "worker 1 ({}) ended: no room", 1),
        ("signal.raise_signal(signal.SIGTERM)", "SIGTERM: worker 1 ({}) was stopped; ",
         143),
        ("1 / 0", "worker 1 ({}) ended: ZeroDivisionError: division by zero", 1),
    ],
)  # fmt: skip
def test_all_workers_end_with_one_of_them(end, line, code):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    bodies = ["workers.gather(0)", f"time.sleep(1); {end}", "time.sleep(60)"]
    processes = [worker(addresses, i, body) for i, body in enumerate(bodies)]
    outputs = [process.communicate(timeout=30) for process in processes]
    for index in (0, 2):
        assert outputs[index][0] == "joined\n"
        assert line.format(addresses[1]) in outputs[index][1]
        assert outputs[index][1].count("\n") == 1
        assert processes[index].returncode == code


@pytest.mark.fault
def test_workers_that_fail_in_the_same_way_each_say_why_themselves():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    fails = "workers.gather(0); from mnist_tf.errors import UserError; "
    bodies = [
        f"{fails} time.sleep({delay}); raise UserError('NaN')" for delay in (1, 0)
    ]
    processes = [worker(addresses, index, body) for index, body in enumerate(bodies)]
    lines = [process.communicate(timeout=30)[1] for process in processes]
    assert lines == ["error: NaN\n"] * 2


@pytest.mark.fault
def test_workers_whose_chief_is_lost_say_so():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    chief = worker(addresses, 0, "time.sleep(60)")
    other = worker(addresses, 1, "time.sleep(60)")
    assert chief.stdout.readline() == other.stdout.readline() == "joined\n"
    chief.kill()
    _, line = other.communicate(timeout=30)
    assert line.startswith(f"error: the chief ({addresses[0]}) was lost (its ")
    assert line.endswith("start all workers again with --resume=auto to continue\n")
    assert other.returncode == 1
    chief.communicate()


@pytest.mark.fault
def test_a_worker_that_is_silent_counts_as_lost():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    chief = worker(addresses, 0, "time.sleep(60)")
    other = worker(addresses, 1, "time.sleep(60)")
    assert chief.stdout.readline() == other.stdout.readline() == "joined\n"
    started = time.monotonic()
    other.send_signal(signal.SIGSTOP)  # as if its network were gone
    _, line = chief.communicate(timeout=40)
    other.kill()
    other.communicate()
    assert "was lost (nothing came from it for 20 s)" in line
    assert time.monotonic() - started < 30


@pytest.mark.fault
def test_workers_that_do_not_come_are_named():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    chief = worker(addresses, 0, "pass", timeout=6)
    second = worker(addresses, 1, "time.sleep(60)", timeout=20)
    line = f"worker 2 ({addresses[2]}) did not connect within 6 s; start all workers"
    assert line in chief.communicate(timeout=30)[1]
    assert f"the chief ({addresses[0]}) ended: {line}" in second.communicate()[1]
    alone = worker(addresses, 1, "pass", timeout=1)
    _, error = alone.communicate(timeout=30)
    assert f"the chief ({addresses[0]}) did not answer on port" in error
    assert "within 1 s" in error
    assert "raise --cluster_timeout" in error


@pytest.mark.fault
def test_two_workers_with_one_index_are_refused():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    chief = worker(addresses, 0, "pass")
    first = worker(addresses, 1, "time.sleep(60)")
    assert first.stdout.readline() == "joined\n"
    # It takes the port of another, because its own is in use by TensorFlow.
    hello = {"index": 1, "addresses": addresses}
    control = int(addresses[0].rpartition(":")[2]) + cluster.PORT_OFFSET
    with socket.create_connection(("127.0.0.1", control)) as second:
        second.sendall(json.dumps(hello).encode() + b"\n")
        answer = json.loads(second.makefile().readline())
    assert answer["problem"].startswith(f"two processes are worker 1 ({addresses[1]})")
    assert "two processes are worker 1" in chief.communicate(timeout=30)[1]
    assert "two processes are worker 1" in first.communicate(timeout=30)[1]


@pytest.mark.fault
def test_strangers_at_the_port_of_the_chief_are_ignored():
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    control = int(addresses[0].rpartition(":")[2]) + cluster.PORT_OFFSET
    chief = worker(addresses, 0, "pass")
    for message in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\n", b"[]\n", b'{"index": 1}\n'):
        deadline = time.monotonic() + 20
        while True:
            try:
                with socket.create_connection(("127.0.0.1", control)) as stranger:
                    stranger.sendall(message)
                    with contextlib.suppress(ConnectionError):
                        assert stranger.recv(1) == b""
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    other = worker(addresses, 1, "pass")
    assert (chief.wait(30), other.wait(30)) == (0, 0)
    chief.communicate()
    other.communicate()


@pytest.mark.fault
def test_a_port_that_is_taken_is_named():
    ports = free_ports(2)
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    chief = cluster.ConnectedWorkers(cluster.Cluster(addresses, 0))
    for port, line in (
        (ports[0], f"port {ports[0]} of worker 0 is in use"),
        (ports[0] + cluster.PORT_OFFSET, "of the chief (127.0.0.1) cannot be used"),
    ):
        with (
            socket.create_server(("", port)),
            pytest.raises(UserError) as caught,
        ):
            chief.connect(1)
        assert line in str(caught.value)
