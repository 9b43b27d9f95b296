"""The server does what its description says, whatever it is sent."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_server import out, server  # noqa: F401 (fixtures)

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance",
)  # fmt: skip


@pytest.mark.fault
def test_whatever_is_asked_gets_an_answer_that_is_described(server, tmp_path):  # noqa: F811
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{server.url}/openapi.json",
            f"--checks={','.join(CHECKS)}",
            "--phases=coverage,fuzzing",
            "--max-examples=20",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    asked, passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout).groups()
    assert int(asked) == int(passed) > 200
