"""Measures what the README claims, beside the peers, and writes tables and a chart.

    python -m benchmarks --data_dir=FOLDER_WITH_ALL_OF_MNIST [--parts=recipes,peers,...]

Each figure comes from a process of its own, one after the other, as a user would start
it; what is compared takes turns. Parts, and minutes on two cores:

    recipes   our recipes, several seeds, and the Keras example's fit         (45)
    best      the same for the recipe that takes its time                     (90)
    peers     one network with fit, with our Trainer and with PyTorch         (15)
    networks  the other networks, one seed each                                (5)
    answers   prediction as a process, and in a warm one, on both runtimes     (4)
    steps     where the time of a training step goes, beside the limits        (2)
    growth    speed and memory against batch size, width, images, epochs       (5)
    saves     what a save every five seconds costs                             (5)
    serving   serve.py beside LitServe over the same model                     (5)
    labels    does every way to ask give the same labels?                      (2)
    drawn     are drawn and photographed digits read like MNIST's?             (2)
    repeat    the same command twice: are the weights the same?                (1)
    report    only writes tables and chart again

Writes results.json, results.md and chart.png to --output. A part that is measured again
replaces what was measured of it before.
"""

import functools
import importlib.util
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import host, report
from benchmarks.peers import PEERS
from mnist_tf import checkpoints, command
from mnist_tf.artifact import CHECKPOINTS
from mnist_tf.errors import UserError, unknown_name

ROOT = Path(__file__).parents[1]
RECIPES = {"fast": 10, "base": 5, "sample": 5, "tiny": 5}  # seeds
BEST = {"best": 5}
FITS = 3
PEER_ROUNDS, PEER_EPOCHS = 3, 2  # the first epoch of each traces and does not count
PREDICTIONS = 15
SAVE_ROUNDS = 3
# Runs a script and prints its peak memory. What the system tells of a child that has
# ended is never below the peak of the process that started it.
AND_ITS_MEMORY = """
import atexit, pathlib, runpy, sys
sys.argv.pop(0)
status = pathlib.Path("/proc/self/status")
last = lambda: print([line for line in status.open() if line.startswith("VmHWM")][0])
atexit.register(last)
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FLAGS = {
    "data_dir": command.Flag("", "Folder with all of MNIST."),
    "parts": command.Flag("all", "What to measure, separated by commas."),
    "output": command.Flag("benchmarks/results", "Folder for what was found."),
}


def main(argv: Sequence[str]) -> None:
    """Measures the parts that the flags name, then writes the report of all."""
    values = command.parse(argv, FLAGS, __doc__ or "", _checked)
    output = Path(values["output"])
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.json"
    try:
        found = json.loads(results.read_text("utf-8")) if results.exists() else {}
    except ValueError as error:
        raise UserError(f"{results}: damaged ({error}); move it away") from error
    for part in values["parts"]:
        found[part] = {"host": host.describe(), "rows": []}
        for busy, row in PARTS[part](values["data_dir"]):
            found[part]["rows"].append({**row, "busy": busy})
            results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    report.write(found, output)
    print((output / "results.md").read_text("utf-8"))


Rows = Iterator[tuple[float, dict[str, Any]]]


def _checked(values: command.Values) -> command.Values:
    given = command.with_defaults(FLAGS, values)
    parts = given["parts"].split(",")
    for part in parts:
        if part not in (*PARTS, "all", "report"):
            raise UserError(unknown_name("parts", part, [*PARTS, "all", "report"]))
    known = PARTS if "all" in parts else parts
    given["parts"] = [part for part in known if part != "report"]
    if set(given["parts"]) - {"growth"} and not given["data_dir"]:
        raise UserError("data_dir: got nothing; give the folder with all of MNIST")
    for package in ("torch", "matplotlib", "litserve"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{package} is missing; pip install -e '.[bench]'")
    return given


def _recipes(recipes: Mapping[str, int], data_dir: str) -> Rows:
    """Rounds of one fit and a share of each recipe's seeds."""
    for turn in range(FITS):
        yield _peer("fit", data_dir, epochs=15, seed=turn + 1)
        for name, seeds in recipes.items():
            for seed in range(1 + turn, seeds + 1, FITS):
                yield _recipe(name, data_dir, seed)


def _networks(data_dir: str) -> Rows:
    for name in ("fc", "rnn"):
        yield _recipe(name, data_dir, 1)


def _recipe(name: str, data_dir: str, seed: int) -> tuple[float, dict[str, Any]]:
    """Trains on all training images; the test images are looked at once."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [f"--seed={seed}", "--validation_split=0"]
        sample = name == "sample"
        data = "--dataset=sample" if sample else f"--data_dir={data_dir}"
        busy = host.busy()
        clock = time.perf_counter()
        metrics = _train(Path(folder), "base" if sample else name, data, *flags)
        whole = time.perf_counter() - clock
        if sample:
            accuracy = _evaluate(Path(folder), data_dir)
        else:
            accuracy = metrics["test"]["accuracy"]
    seconds = metrics["seconds"]
    row = {
        "name": name,
        "seed": seed,
        "accuracy": accuracy,
        "seconds": seconds["trace"] + seconds["train"],
        "trace": seconds["trace"],
        "command": whole,
        "parameters": metrics["parameters"],
        "images_per_second": metrics["images_per_second"],
    }
    return busy, row


def _peers(data_dir: str) -> Rows:
    for turn, name in itertools.product(range(PEER_ROUNDS), PEERS):
        yield _peer(name, data_dir, epochs=PEER_EPOCHS, seed=turn + 1)


def _peer(
    name: str, data_dir: str, epochs: int, seed: int
) -> tuple[float, dict[str, Any]]:
    busy = host.busy()
    flags = [f"--data_dir={data_dir}", f"--epochs={epochs}", f"--seed={seed}"]
    found = json.loads(_call("-m", "benchmarks.peers", name, *flags))
    return busy, {"name": name, "seed": seed, **found}


def _answers(data_dir: str) -> Rows:
    """On two models: the default recipe's, and one that averages over shifts."""
    with tempfile.TemporaryDirectory() as folder:
        for recipe in ("base", "fast"):
            model_dir = Path(folder) / recipe
            _train(model_dir, recipe, f"--data_dir={data_dir}", "--epochs=1")
            flags = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
            busy = host.busy()
            warm = json.loads(_call("-m", "benchmarks.answers", *flags))
            runs: dict[str, list] = {"litert": [], "tensorflow": []}
            for _ in range(PREDICTIONS):
                for runtime, each in runs.items():
                    each.append(_predict(model_dir, runtime))
            for runtime, each in runs.items():
                seconds, memory = zip(*each, strict=True)
                warm[runtime]["process_seconds"] = statistics.median(seconds)
                warm[runtime]["process_mib"] = statistics.median(memory)
            yield busy, {"name": recipe, **warm}


def _steps(data_dir: str) -> Rows:
    # Emulated, bfloat16 says nothing.
    computed = host.describe()["instructions"] in ("amx_bf16", "avx512_bf16")
    precisions = ("float32", "bfloat16") if computed else ("float32",)
    for precision, other in itertools.product(
        precisions, ("", "--shards=1", "--nodeterministic")
    ):
        flags = [f"--precision={precision}", *([other] if other else [])]
        busy = host.busy()
        text = _call("-m", "benchmarks.steps", f"--data_dir={data_dir}", *flags)
        yield busy, {"name": " ".join(flags), **json.loads(text)}


def _growth(data_dir: str) -> Rows:
    for name, values in {
        "batch_size": (32, 64, 128, 256, 512, 1024),
        "filters": ("8,16,32", "16,32,64", "32,64,128", "64,128,256"),
        "images": (60_000, 250_000, 1_000_000),
        "epochs": (1, 3, 10, 30),
    }.items():
        for value in values:
            flags = [f"--{name}={value}"]
            if name == "epochs":
                flags.append("--steps=100")
            busy = host.busy()
            found = json.loads(_call("-m", "benchmarks.growth", *flags))
            yield busy, {"name": name, "value": value, **found}


def _saves(data_dir: str) -> Rows:
    for turn, every in itertools.product(range(SAVE_ROUNDS), (0, 5)):
        with tempfile.TemporaryDirectory() as folder:
            busy = host.busy()
            flags = [f"--data_dir={data_dir}", "--validation_split=0"]
            flags += [f"--save_every_seconds={every}", "--log_every=20"]
            seconds = _train(Path(folder), "base", *flags)["seconds"]
            yield busy, {"name": str(every), "seed": turn, **seconds}


def _serving(data_dir: str) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "out"
        _train(model_dir, "base", f"--data_dir={data_dir}", "--epochs=1")
        busy = host.busy()
        text = _call("-m", "benchmarks.serving", f"--model_dir={model_dir}")
        yield busy, {"name": "base", **json.loads(text)}


def _asked(module: str, data_dir: str) -> Rows:
    """What a module finds that asks the model of the default recipe."""
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "out"
        _train(model_dir, "base", f"--data_dir={data_dir}")
        busy = host.busy()
        flags = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
        text = _call("-m", module, *flags)
        yield busy, {"name": "base", **json.loads(text)}


def _repeat(data_dir: str) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        states = []
        busy = host.busy()
        for name in ("one", "two"):
            model_dir = Path(folder) / name
            _train(model_dir, "base", f"--data_dir={data_dir}", "--epochs=2")
            states.append(checkpoints.load(model_dir / CHECKPOINTS)[0])
        one, two = states
        same = all(np.array_equal(one[key], two[key]) for key in one)
        yield busy, {"name": "base", "same": same, "arrays": len(one)}


PARTS: dict[str, Callable[[str], Rows]] = {
    "recipes": functools.partial(_recipes, RECIPES),
    "best": functools.partial(_recipes, BEST),
    "peers": _peers,
    "networks": _networks,
    "answers": _answers,
    "steps": _steps,
    "growth": _growth,
    "saves": _saves,
    "serving": _serving,
    "labels": functools.partial(_asked, "benchmarks.labels"),
    "drawn": functools.partial(_asked, "benchmarks.drawn"),
    "repeat": _repeat,
}


def _call(*arguments: str) -> str:
    """Runs Python as a user would; what it prints."""
    print(f"python {' '.join(arguments)}", file=sys.stderr, flush=True)
    command_line = [sys.executable, *arguments]
    done = subprocess.run(
        command_line, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{' '.join(arguments)}: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it says nothing"


def _train(model_dir: Path, recipe: str, *arguments: str) -> dict[str, Any]:
    folders = (f"--model_dir={model_dir}", f"--log_dir={model_dir}/logs")
    _call("train.py", f"--flagfile=configs/{recipe}.cfg", *arguments, *folders)
    return json.loads((model_dir / "metrics.json").read_text(encoding="utf-8"))


def _evaluate(model_dir: Path, data_dir: str) -> float:
    flags = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
    lines = _call("evaluate.py", *flags).splitlines()
    line = next(row for row in lines if row.startswith("accuracy"))
    return float(line.split()[1]) / 100


def _predict(model_dir: Path, runtime: str) -> tuple[float, float]:
    """Seconds and peak MiB of one prediction, the whole process."""
    flags = [f"--model_dir={model_dir}", f"--runtime={runtime}"]
    flags.append("--input=samples/sample.npy")
    clock = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", AND_ITS_MEMORY, "predict.py", *flags],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - clock
    if done.returncode:
        raise UserError(f"predict.py: {_last_line(done.stderr)}")
    kib = done.stdout.split()[-2]  # ... VmHWM: 48000 kB
    return seconds, int(kib) / 1024


if __name__ == "__main__":
    command.run(main)
