"""A sweep of two processes on a real PostgreSQL, which is gone for a while."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from mnist_tf.run.cluster import is_free
from tests.sweeps.test_command import SETTINGS, rows, started, wait_for

SECONDS = 180
OUTAGE = 10


def programs():
    """The folder of PostgreSQL's programs, which Debian keeps off the PATH."""
    found = shutil.which("pg_ctl")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return Path(found).parent if found else next(reversed(folders), None)


class PostgreSQL:
    """A server with files of its own, in a folder that its user may enter."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self.user = {}
        if os.geteuid() == 0:  # which the server refuses
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid}
            self.user["extra_groups"] = []
        self.call("initdb", "--auth=trust", "--username=postgres")

    def call(self, program, *arguments):
        with open(self.folder / "output", "a") as output:
            subprocess.run(
                [programs() / program, f"--pgdata={self.folder / 'data'}", *arguments],
                check=True,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                **self.user,
            )

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.call("pg_ctl", "--wait", f"--options={options}", "start")

    def stop(self):
        self.call("pg_ctl", "--wait", "--mode=fast", "stop")


@pytest.fixture
def database():
    if not programs():
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory() as folder:  # pytest's are root's alone
        server = PostgreSQL(Path(folder), next(filter(is_free, range(15432, 16000))))
        server.start()
        yield server
        server.stop()


def test_two_processes_share_the_trials_of_a_database_that_fails(database, tmp_path):
    folder = tmp_path / "lr"
    flags = [
        *SETTINGS, "--search=learning_rate=log:0.001:0.03", "--trials=4",
        f"--storage={database.url}",
    ]  # fmt: skip
    with ExitStack() as stack:
        first = stack.enter_context(started(folder, *flags))
        wait_for(folder, "trials/0000/train.log", first)
        second = stack.enter_context(started(folder, *flags))
        wait_for(folder, "trials/0001/checkpoints/*.npz", second)
        database.stop()
        time.sleep(OUTAGE)
        database.start()
        ended = [each.communicate(timeout=SECONDS) for each in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0], ended
    # A process that had nothing to record in the meantime has not noticed.
    told = [err for _, err in ended if "the storage cannot be reached (" in err]
    assert told
    assert all("the storage can be reached again" in err for err in told)
    found = rows(folder)
    assert {row["trial"] for row in found} == {0, 1, 2, 3}
    assert {row["state"] for row in found} == {"complete"}
    assert len({row["learning_rate"] for row in found}) == 4
