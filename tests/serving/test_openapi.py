"""The server responds as its OpenAPI document says, whatever it is sent."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_schema_conformance",
)  # fmt: skip


@pytest.mark.fault
def test_every_response_conforms_to_the_document(server, tmp_path):
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
    sent, passed = re.search(r"(\d+) generated, (\d+) passed", done.stdout).groups()
    assert int(sent) == int(passed) > 200
