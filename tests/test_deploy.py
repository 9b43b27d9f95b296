"""The files in deploy/ that train are valid and fit the command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

from mnist_tf.config import SETTINGS
from mnist_tf.run import cluster

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "deploy" / "kubernetes" / "train.yaml"
SCRIPTS = Path(sys.executable).parent
VERSION = "1.33"


KNOWN = {"flagfile", *SETTINGS}


def used_flags(arguments):
    return {re.match(r"--(\w+)", each)[1] for each in arguments if each[:2] == "--"}


def validate(document):
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_kubernetes_accepts_the_job_of_each_worker():
    claim, jobs = yaml.safe_load_all(TRAIN.read_text())
    validate(claim)
    [job] = jobs["spec"]["replicatedJobs"]
    # JobSet's own fields have no published schema; what it makes is a Job.
    made = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}}
    validate(made | job["template"])
    spec = job["template"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert used_flags(container["args"]) <= KNOWN
    ports = {each["containerPort"] for each in container["ports"]}
    environment = {each["name"]: each.get("value") for each in container["env"]}
    for index in range(spec["completions"]):
        text = environment["TF_CONFIG"].replace("$(INDEX)", str(index))
        found = cluster.find({"TF_CONFIG": text})
        assert (found.index, len(found.addresses)) == (index, spec["completions"])
        # JobSet's names of pods: jobset-job-index of the job-index of the pod.
        names = jobs["metadata"]["name"], job["name"]
        host = f"{names[0]}-{names[1]}-0-{index}.{names[0]}"
        assert found.addresses[index] == f"{host}:2222"
    assert ports == {2222, 2222 + cluster.PORT_OFFSET}


def test_the_script_for_slurm_passes_the_linter():
    script = ROOT / "deploy" / "slurm.sbatch"
    done = subprocess.run(
        [SCRIPTS / "shellcheck", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
    text = script.read_text()
    [command] = re.findall(r"^    mnist_tf train (.*)$", text, re.M)
    assert used_flags(command.split()) <= KNOWN


def test_the_script_for_slurm_passes_its_flags_on(tmp_path):
    # Slurm itself cannot be had here: `srun` prints how it is called.
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/bash\nprintf '%s\\n' \"$@\"\n")
    srun.chmod(0o755)
    flags = ["--flagfile=cifar10.cfg", "--data_dir=/a folder"]
    done = subprocess.run(
        ["bash", ROOT / "deploy" / "slurm.sbatch", *flags],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[1:] == [
        "mnist_tf", "train", "--strategy=multi_worker", "--resume=auto", *flags
    ]  # fmt: skip


def test_the_dockerfile_for_training_copies_what_there_is():
    text = (ROOT / "deploy" / "train.Dockerfile").read_text()
    for paths in re.findall(r"^COPY (.+) \S+$", text, re.M):
        for path in paths.split():
            assert (ROOT / path).exists(), path
            for link in (ROOT / path).rglob("*"):
                if link.is_symlink():
                    target = link.resolve().relative_to(ROOT)
                    assert re.search(rf"^COPY {target} ", text, re.M), link
    assert json.loads(re.search(r"^ENTRYPOINT (.+)$", text, re.M)[1]) == ["mnist_tf"]
