"""What serving needs is enough, without TensorFlow; and the deployment files parse."""

import configparser
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.test_server import out, serving  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def test_requirements_are_enough_to_serve_and_predict(out, tmp_path):  # noqa: F811
    for name in ("serve.py", "predict.py", "mnist_tf", "requirements", "samples"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-r", "requirements/serve.txt"]
    subprocess.run(install, cwd=tmp_path, check=True)
    has = [python, "-c", "import tensorflow"]
    assert subprocess.run(has, capture_output=True).returncode

    predict = [python, "predict.py", f"--model_dir={out}", "--input=samples/3.png"]
    done = subprocess.run(predict, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[1].split()[2] == "3", done.stderr

    with serving(out, python=python, cwd=tmp_path) as server:
        curl = (
            "import sys, urllib.request as r; "
            "print(r.urlopen(r.Request(sys.argv[1], open(sys.argv[2], 'rb').read(), "
            "{'content-type': 'image/png'})).read().decode())"
        )
        picture = ROOT / "samples" / "3.png"
        ask = [sys.executable, "-c", curl, f"{server.url}/predict", picture]
        answer = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        assert '"label":"3"' in answer


def test_requirements_are_those_of_the_package():
    listed = re.findall(
        r"^[\w-]+ >= [\d.]+", (ROOT / "requirements" / "serve.txt").read_text(), re.M
    )
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    package = setup["options"]["install_requires"].splitlines()
    package += setup["options.extras_require"]["serve"].splitlines()
    assert set(listed) <= set(package)
    assert len(listed) == 12


def test_the_dockerfile_is_without_fault():
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_service_is_one_that_systemd_takes(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("THE SYSTEMD UNIT IS NOT CHECKED: systemd is not installed")
    text = (DEPLOY / "mnist_tf.service").read_text()
    # It must find the program that it starts.
    unit = tmp_path / "mnist_tf.service"
    unit.write_text(text.replace("/opt/mnist_tf/.venv/bin/python", sys.executable))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["Dockerfile", "mnist_tf.service"])
def test_what_is_started_exists_and_its_flags_too(name):
    text = (DEPLOY / name).read_text()
    assert "serve.py" in text
    for flag in set(re.findall(r"--(\w+_\w+|host|watch)\b", text)):
        if flag != "no_cache":
            assert f'"{flag}": command.Flag' in (ROOT / "serve.py").read_text(), flag
    for copied in re.findall(r"^COPY (.+) \S+$", text, re.M):
        for path in copied.split():
            assert (ROOT / path).exists(), path
