"""Every example in docs/serving.md runs."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "serving.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```(bash|python)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def run(server, language, code):
    command = ["bash", "-euo", "pipefail", "-c"]
    if language == "python":
        command = [sys.executable, "-c"]
    code = code.replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run([*command, code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "code"), EXAMPLES)
def test_an_example_runs(server, language, code):
    if language == "bash" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    assert run(server, language, code)


def test_there_are_examples_in_bash_and_python():
    assert {language for language, _ in EXAMPLES} == {"bash", "python"}


def test_the_python_example_prints_the_digits(server):
    (code,) = [code for language, code in EXAMPLES if language == "python"]
    assert run(server, "python", code) == "[0 1 2 3 4 5 6 7 8 9]\n"


def structure(value):
    """The keys and types of a JSON value."""
    if isinstance(value, dict):
        return {key: structure(each) for key, each in value.items()}
    return (
        [structure(each) for each in value] if isinstance(value, list) else type(value)
    )


def test_the_response_has_the_structure_shown(server):
    (shown,) = re.findall(r"^```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    response = json.loads(run(server, *EXAMPLES[0]))
    assert structure(response) == structure(json.loads(shown))


def test_every_metric_in_the_text_exists(server):
    named = set(re.findall(r"`(mnist_tf_\w+)`", TEXT))
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        known = re.findall(r"(?m)^# TYPE (\w+) ", response.read().decode())
    assert named == {name for name in known if not name.endswith("_created")}


def test_every_flag_in_the_text_exists():
    command = [sys.executable, "serve.py", "--helpfull"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    known = set(re.findall(r"--(?:\[no\])?(\w+):", done.stdout))
    named = set(re.findall(r"`--(\w+)", TEXT))
    # Those of `train` and `publish`, which the page is about, too.
    assert named and named - {"publish", "keep"} <= known
