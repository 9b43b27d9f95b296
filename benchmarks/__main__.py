"""Measures the numbers that the README claims, and writes tables and a chart.

    python -m benchmarks --data_dir=DIRECTORY [--parts=recipes,peers,...]

Each measurement runs in a process of its own, one after another, as a user would start
it; alternatives take turns. The parts, and their minutes on two cores:

    recipes   our recipes with several seeds, and the Keras example with `fit`   (45)
    best      the same for best.cfg, which trains for longest                    (90)
    peers     one network with `fit`, with our Trainer and with PyTorch          (15)
    networks  the other networks, with one seed each                              (5)
    answers   predictions in a new and in a warm process, on both runtimes        (4)
    steps     the parts of a training step, and the limits of the CPU             (2)
    growth    speed and memory against batch size, width, images and epochs       (5)
    saves     the cost of a checkpoint every five seconds                         (5)
    serving   serve.py and LitServe with the same model                           (5)
    labels    whether every way to predict gives the same labels                  (2)
    drawn     the accuracy on drawn and photographed digits                       (2)
    repeat    whether the same command gives the same weights                     (1)
    report    only writes the tables and the chart again

Writes results.json, results.md and chart.png to --output. A part that is measured again
replaces its previous results.
"""

import functools
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import host, process, report
from benchmarks.peers import PEERS
from mnist_tf.artifact import CHECKPOINTS
from mnist_tf.cli import parsing
from mnist_tf.cli.main import run
from mnist_tf.errors import UserError, native_output_hidden, unknown_name

RECIPES = {"fast": 10, "base": 10, "few": 5, "tiny": 5}  # number of seeds
BEST = {"best": 5}
PLAIN = {"fast": 5, "base": 5, "few": 5, "tiny": 2, "best": 1}
FITS = 3
PEER_ROUNDS, PEER_EPOCHS = 5, 2  # the first epoch of each traces and is not counted
PREDICTIONS = 15
SAVE_ROUNDS = 3

Row = tuple[float, dict[str, Any]]  # CPU use before the measurement, and its results


def main(argv: Sequence[str]) -> None:
    """Measures the parts that the flags name, then writes the report of all."""
    values = parsing.parse(argv, __doc__ or "", _define, _checked)
    output = Path(values["output"])
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.json"
    try:
        found = json.loads(results.read_text("utf-8")) if results.exists() else {}
    except ValueError as error:
        raise UserError(f"{results} is damaged ({error}); move it away") from error
    for part in values["parts"]:
        found[part] = {"host": host.describe(), "rows": []}
        for busy, row in PARTS[part](values["data_dir"]):
            found[part]["rows"].append({**row, "busy": busy})
            results.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    report.write(found, output)
    print((output / "results.md").read_text("utf-8"))


def _define(values: flags.FlagValues) -> None:
    mine: dict = {"flag_values": values, "module_name": "Benchmarks"}
    flags.DEFINE_string("data_dir", "", "Directory with all of MNIST.", **mine)
    flags.DEFINE_list("parts", "all", "Parts to measure.", **mine)
    flags.DEFINE_string(
        "output", "benchmarks/results", "Directory to write the results to.", **mine
    )


def _checked(values: parsing.Values) -> parsing.Values:
    parts, known = values["parts"], [*PARTS, "all", "report"]
    problems = [
        unknown_name("--parts", part, known) for part in parts if part not in known
    ]
    chosen = PARTS if "all" in parts else parts
    measured = [part for part in chosen if part != "report"]
    if set(measured) - {"growth"} and not values["data_dir"]:
        problems.append("--data_dir is missing; give the directory with all of MNIST")
    packages = ("torch", "matplotlib", "litserve")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        problems.append(f"install {', '.join(missing)}: pip install -e '.[bench]'")
    if problems:
        raise UserError("; ".join(problems))
    return values | {"parts": measured}


def _recipes(recipes: Mapping[str, int], data_dir: str) -> Iterator[Row]:
    """Rounds of one `fit` and some of each recipe's seeds."""
    for turn in range(FITS):
        yield _peer("fit", data_dir, epochs=15, seed=turn + 1)
        for name, seeds in recipes.items():
            for seed in range(1 + turn, seeds + 1, FITS):
                yield _recipe(name, data_dir, seed)


def _plain(data_dir: str) -> Iterator[Row]:
    """The recipes as they are, which hold out a tenth of the images for validation."""
    for name, seeds in PLAIN.items():
        for seed in range(1, seeds + 1):
            yield _recipe(name, data_dir, seed, split=0.1)


def _networks(data_dir: str) -> Iterator[Row]:
    for name in ("fc", "rnn"):
        yield _recipe(name, data_dir, 1)


def _recipe(name: str, data_dir: str, seed: int, split: float = 0.0) -> Row:
    """Trains and evaluates on the test images once."""
    with tempfile.TemporaryDirectory() as folder:
        given = [f"--seed={seed}", f"--validation_split={split}"]
        sample = name == "few"
        data = "--dataset=sample" if sample else f"--data_dir={data_dir}"
        busy = host.busy()
        clock = time.perf_counter()
        metrics = _train(Path(folder), name, data, *given)
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


def _peers(data_dir: str) -> Iterator[Row]:
    for turn, name in itertools.product(range(PEER_ROUNDS), PEERS):
        yield _peer(name, data_dir, epochs=PEER_EPOCHS, seed=turn + 1)


def _peer(name: str, data_dir: str, epochs: int, seed: int) -> Row:
    busy = host.busy()
    given = [f"--data_dir={data_dir}", f"--epochs={epochs}", f"--seed={seed}"]
    found = json.loads(_call("-m", "benchmarks.peers", name, *given))
    return busy, {"name": name, "seed": seed, **found}


def _answers(data_dir: str) -> Iterator[Row]:
    """With two models, the second with test-time augmentation."""
    with tempfile.TemporaryDirectory() as folder:
        for recipe in ("base", "fast"):
            model_dir = Path(folder) / recipe
            _train(model_dir, recipe, f"--data_dir={data_dir}", "--epochs=1")
            given = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
            busy = host.busy()
            warm = json.loads(_call("-m", "benchmarks.answers", *given))
            runs: dict[str, list] = {"litert": [], "tensorflow": []}
            for _ in range(PREDICTIONS):
                for runtime, each in runs.items():
                    each.append(_predict(model_dir, runtime))
            for runtime, each in runs.items():
                seconds, memory = zip(*each, strict=True)
                warm[runtime]["process_seconds"] = statistics.median(seconds)
                warm[runtime]["process_mib"] = statistics.median(memory)
            yield busy, {"name": recipe, **warm}


def _steps(data_dir: str) -> Iterator[Row]:
    # Where the CPU emulates bfloat16, its time means nothing.
    native = host.describe()["instructions"] in ("amx_bf16", "avx512_bf16")
    precisions = ("float32", "bfloat16") if native else ("float32",)
    for precision, other in itertools.product(
        precisions, ("", "--shards=1", "--nodeterministic")
    ):
        given = [f"--precision={precision}", *([other] if other else [])]
        busy = host.busy()
        text = _call("-m", "benchmarks.steps", f"--data_dir={data_dir}", *given)
        yield busy, {"name": " ".join(given), **json.loads(text)}


def _growth(data_dir: str) -> Iterator[Row]:
    for name, values in {
        "batch_size": (32, 64, 128, 256, 512, 1024),
        "filters": ("8,16,32", "16,32,64", "32,64,128", "64,128,256"),
        "images": (60_000, 250_000, 1_000_000),
        "epochs": (1, 3, 10, 30),
    }.items():
        for value in values:
            given = [f"--{name}={value}"]
            if name == "epochs":
                given.append("--steps=100")
            busy = host.busy()
            found = json.loads(_call("-m", "benchmarks.growth", *given))
            yield busy, {"name": name, "value": value, **found}


def _saves(data_dir: str) -> Iterator[Row]:
    for turn, every in itertools.product(range(SAVE_ROUNDS), (0, 5)):
        with tempfile.TemporaryDirectory() as folder:
            busy = host.busy()
            given = [f"--data_dir={data_dir}", "--validation_split=0"]
            given += [f"--save_every_seconds={every}", "--log_every=20"]
            seconds = _train(Path(folder), "base", *given)["seconds"]
            yield busy, {"name": str(every), "seed": turn, **seconds}


def _serving(data_dir: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "out"
        _train(model_dir, "base", f"--data_dir={data_dir}", "--epochs=1")
        busy = host.busy()
        text = _call("-m", "benchmarks.serving", f"--model_dir={model_dir}")
        yield busy, {"name": "base", **json.loads(text)}


def _on_base(module: str, data_dir: str) -> Iterator[Row]:
    """Runs a module on a model of the default recipe."""
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "out"
        _train(model_dir, "base", f"--data_dir={data_dir}")
        busy = host.busy()
        given = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
        text = _call("-m", module, *given)
        yield busy, {"name": "base", **json.loads(text)}


def _repeat(data_dir: str) -> Iterator[Row]:
    with native_output_hidden():
        from mnist_tf.run import checkpoints  # imports TensorFlow

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


PARTS: dict[str, Callable[[str], Iterator[Row]]] = {
    "recipes": functools.partial(_recipes, RECIPES),
    "best": functools.partial(_recipes, BEST),
    "plain": _plain,
    "peers": _peers,
    "networks": _networks,
    "answers": _answers,
    "steps": _steps,
    "growth": _growth,
    "saves": _saves,
    "serving": _serving,
    "labels": functools.partial(_on_base, "benchmarks.labels"),
    "drawn": functools.partial(_on_base, "benchmarks.drawn"),
    "repeat": _repeat,
}


def _train(model_dir: Path, recipe: str, *arguments: str) -> dict[str, Any]:
    folders = (f"--model_dir={model_dir}", f"--log_dir={model_dir}/logs")
    _call("train.py", f"--flagfile=configs/{recipe}.cfg", *arguments, *folders)
    return json.loads((model_dir / "metrics.json").read_text(encoding="utf-8"))


def _evaluate(model_dir: Path, data_dir: str) -> float:
    given = [f"--model_dir={model_dir}", f"--data_dir={data_dir}"]
    lines = _call("evaluate.py", *given).splitlines()
    line = next(row for row in lines if row.startswith("accuracy"))
    return float(line.split()[1].rstrip("%")) / 100


def _predict(model_dir: Path, runtime: str) -> tuple[float, float]:
    """Returns the seconds and the peak MiB of a process with one prediction."""
    given = [f"--model_dir={model_dir}", f"--runtime={runtime}"]
    given.append("--input=samples/sample.npy")
    clock = time.perf_counter()
    output = _call("-m", "benchmarks.peak_memory", "predict.py", *given)
    seconds = time.perf_counter() - clock
    return seconds, int(output.split()[-1]) / 1024


def _call(*arguments: str) -> str:
    """Shows the command on standard error, runs it and returns its output."""
    print(f"python {' '.join(arguments)}", file=sys.stderr, flush=True)
    return process.run(*arguments)


if __name__ == "__main__":
    run(main)
