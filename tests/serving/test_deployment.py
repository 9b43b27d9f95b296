"""requirements/serve.txt is enough to serve; the files in deploy/ are valid."""

import configparser
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import httpx
import kubernetes_validate
import pytest
import yaml

from tests.conftest import ROOT
from tests.serving.conftest import running_server

DEPLOY = ROOT / "deploy"
KUBERNETES = "1.33"


def test_the_requirements_are_enough_to_predict_and_serve(model_dir, tmp_path):
    for name in ("serve.py", "predict.py", "mnist_tf", "requirements", "samples"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-r", "requirements/serve.txt"]
    subprocess.run(install, cwd=tmp_path, check=True)
    import_it = [python, "-c", "import tensorflow"]
    assert subprocess.run(import_it, capture_output=True).returncode

    predict = [python, "predict.py", f"--model_dir={model_dir}", "samples/3.png"]
    done = subprocess.run(predict, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[2] == "3"

    body = (ROOT / "samples" / "3.png").read_bytes()
    with running_server(model_dir, python=python, cwd=tmp_path) as server:
        response = httpx.post(f"{server.url}/predict", content=body)
    assert response.json()["predictions"][0]["label"] == "3"


def test_the_requirements_are_those_of_the_package():
    listed = re.findall(
        r"^[\w-]+ >= [\d.]+", (ROOT / "requirements" / "serve.txt").read_text(), re.M
    )
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    package = setup["options"]["install_requires"].splitlines()
    package += setup["options.extras_require"]["serve"].splitlines()
    assert set(listed) <= set(package)
    assert len(listed) == 13


@pytest.mark.parametrize("name", ["Dockerfile", "train.Dockerfile"])
def test_the_dockerfiles_pass_the_linter(name):
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, DEPLOY / name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_accepts_the_unit(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("THE SYSTEMD UNIT IS NOT CHECKED: systemd is not installed")
    text = (DEPLOY / "mnist_tf.service").read_text()
    # systemd checks that the program exists.
    unit = tmp_path / "mnist_tf.service"
    unit.write_text(text.replace("/opt/mnist_tf/.venv/bin/python", sys.executable))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_kubernetes_accepts_the_deployment():
    text = (DEPLOY / "kubernetes" / "serve.yaml").read_text()
    documents = {each["kind"]: each for each in yaml.safe_load_all(text)}
    for document in documents.values():
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    assert set(documents) == {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"
    }  # fmt: skip
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    [server] = pod["containers"]
    assert {re.match(r"--(\w+)", each)[1] for each in server["args"]} <= known_flags()
    # What a mistake would give.
    server["port"] = server.pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(documents["Deployment"], KUBERNETES, strict=True)


def known_flags():
    help_text = subprocess.run(
        [sys.executable, "serve.py", "--helpfull"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    return set(re.findall(r"--(?:\[no\])?(\w+):", help_text))


@pytest.mark.parametrize("name", ["Dockerfile", "mnist_tf.service"])
def test_the_files_and_flags_of_a_deployment_exist(name):
    text = (DEPLOY / name).read_text()
    (command,) = re.findall(r"^(?:ENTRYPOINT|ExecStart).*serve\.py.*$", text, re.M)
    used = re.findall(r"--(\w+)", command)
    assert "model_dir" in used and set(used) <= known_flags()
    for paths in re.findall(r"^COPY (.+) \S+$", text, re.M):
        for path in paths.split():
            assert (ROOT / path).exists(), path
