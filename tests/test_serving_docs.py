"""docs/serving.md says what is so: each of its examples runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_server import out, server  # noqa: F401 (fixtures)

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "serving.md").read_text()
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("language", "code"), EXAMPLES)
def test_an_example_runs(server, language, code):  # noqa: F811 (the fixture)
    if language == "bash" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    code = code.replace("http://127.0.0.1:8080", server.url)
    run = (
        ["bash", "-euo", "pipefail", "-c"]
        if language == "bash"
        else [sys.executable, "-c"]
    )
    done = subprocess.run([*run, code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_examples_of_both_kinds():
    assert {language for language, _ in EXAMPLES} == {"bash", "python"}


def test_what_is_said_of_python_is_what_it_prints(server):  # noqa: F811 (the fixture)
    (code,) = [code for language, code in EXAMPLES if language == "python"]
    code = code.replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "[0 1 2 3 4 5 6 7 8 9]\n"
