"""Every example in docs/serving.md and docs/drift.md runs."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
import yaml

from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "serving.md").read_text("utf-8")
DRIFT = (ROOT / "docs" / "drift.md").read_text("utf-8")


def blocks(language, text):
    return re.findall(rf"^```({language})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


EXAMPLES = blocks("bash|python", TEXT)


def run(server, language, code):
    command = ["bash", "-euo", "pipefail", "-c"]
    if language == "python":
        command = [sys.executable, "-c"]
    code = code.replace("http://127.0.0.1:8080", server.url)
    done = subprocess.run([*command, code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("language", "code"), [*EXAMPLES, *blocks("bash", DRIFT)])
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


def metrics(server, pattern=r"^# TYPE (\w+) "):
    with urllib.request.urlopen(f"{server.url}/metrics") as response:
        return set(re.findall(pattern, response.read().decode(), re.MULTILINE))


def test_every_metric_in_the_text_exists(server):
    named = set(re.findall(r"`(mnist_tf_\w+)`", TEXT))
    assert named == {name for name in metrics(server) if not name.endswith("_created")}


def test_curl_shows_the_lines_about_drift_that_are_in_the_text(server):
    ((_, code),) = blocks("bash", DRIFT)
    (shown,) = re.findall(r"^```\n(mnist_tf_.*?)^```", DRIFT, re.MULTILINE | re.DOTALL)
    found = run(server, "bash", code)
    series = r'^(\w+)\{(?:(feature="\w+"),)?model="[0-9a-f]{12}"\} \d+\.\d+$'
    names = re.findall(series, shown, re.MULTILINE)
    assert re.findall(series, found, re.MULTILINE) == names
    assert len(names) == len(shown.splitlines()) == len(found.splitlines())


def test_the_alarms_are_about_series_that_exist(server):
    ((_, code),) = blocks("yaml", DRIFT)
    (group,) = yaml.safe_load(code)["groups"]
    series = metrics(server, r"^(mnist_tf_\w+)[{ ]")
    for rule in group["rules"]:
        named = set(re.findall(r"mnist_tf_\w+", rule["expr"]))
        assert named and named <= series
        assert rule["expr"].count("(") == rule["expr"].count(")")
    named = set(re.findall(r"`(mnist_tf_\w+)`", DRIFT))
    assert named <= metrics(server) | series


def test_every_flag_in_the_text_exists():
    command = [sys.executable, "serve.py", "--helpfull"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    known = set(re.findall(r"--(?:\[no\])?(\w+):", done.stdout))
    named = set(re.findall(r"`--(\w+)", TEXT))
    # Those of `train` and `publish`, which the page is about, too.
    assert named and named - {"publish", "keep"} <= known
