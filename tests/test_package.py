"""The installed package: complete, and usable from any folder."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Of a copy, as building leaves files behind.
    copy = tmp_path_factory.mktemp("wheel") / "project"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "out", "logs")
    shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "."]
    subprocess.run(build, cwd=copy, check=True, capture_output=True)
    (path,) = copy.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The commands of an environment in which the wheel is installed.

    It sees the other packages of this environment, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", "-q", "--no-deps", wheel], check=True)
    outside = [path for path in sys.path if path.endswith("site-packages")]
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "packages.pth").write_text("\n".join(outside))
    return folder / "bin"


def call(*command, cwd):
    environment = {key: os.environ[key] for key in os.environ if key != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_its_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = ROOT / "mnist_tf"
    sources = {
        str(path.relative_to(ROOT))
        for path in [*package.rglob("*"), *(package / "configs").iterdir()]
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_the_installed_package_works_in_an_empty_folder(installed, tmp_path):
    command, python = installed / "mnist_tf", installed / "python"
    where = "import mnist_tf; print(mnist_tf.__file__)"
    assert str(installed.parent) in call(python, "-c", where, cwd=tmp_path)
    assert "smoke.cfg" in call(command, "recipes", cwd=tmp_path)
    train = [command, "train", "--flagfile=smoke.cfg", "--epochs=1"]
    assert "model in    out" in call(*train, cwd=tmp_path)
    sample = ROOT / "samples" / "sample.npy"
    predicted = call(command, "predict", f"--input={sample}", cwd=tmp_path)
    assert predicted.splitlines()[1].split()[2] == "7"
    assert "smoke.cfg" in call(python, "-m", "mnist_tf", "recipes", cwd=tmp_path)
