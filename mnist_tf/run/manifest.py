"""The manifest of a run: what it was made of, and what it achieved."""

import dataclasses
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_tf.config import Config
from mnist_tf.data.datasets import Dataset
from mnist_tf.errors import UserError

if TYPE_CHECKING:
    import keras

# Settings that may change when a run is resumed. The others decide the weights; the
# data are compared by their checksum.
_FREE_ON_RESUME = {
    "dataset", "data_dir", "epochs", "early_stopping", "model_dir", "log_dir", "resume",
    "overwrite", "save_every", "save_every_seconds", "on_nonfinite", "log_every",
    "test_shift", "test_flip", "strict", "cache_dir", "strategy", "cluster_timeout",
    "publish", "keep", "evaluate_test", "calibrate", "profile_steps", "report",
}  # fmt: skip


def describe(
    settings: Mapping[str, Any],
    dataset: Dataset,
    splits: Mapping[str, tuple],
    model: "keras.Model",
    hardware: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    init_from: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns what config.json says of a run: settings, data, model, versions, commit.

    Settings are JSON types; `splits` maps names to tuples that end with indices;
    `hardware` is that of `hardware.describe`, `events` those of the checkpoints,
    `init_from` that of `fine_tuning.initialize`.
    """
    return {
        "config": settings,
        "dataset": {
            "name": dataset.name,
            "origin": dataset.origin,
            "sha256": dataset.sha256,
            "labels": list(dataset.labels),
            "image_shape": list(dataset.preprocessing.image_shape),
            "images": {name: len(rows) for name, (*_, rows) in splits.items()},
            "skipped": len(dataset.skipped),
        },
        "preprocessing": dataclasses.asdict(dataset.preprocessing),
        "model": {
            "name": settings["model"],
            "class": type(model).__name__,
            "parameters": model.count_params(),
        },
        "init_from": init_from,
        "hardware": hardware,
        "events": events,
        "versions": versions(),
        "git_commit": git_commit(),
    }


def versions() -> dict[str, str | None]:
    """Returns the versions of Python and of the packages that decide the weights."""
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    python = {"python": platform.python_version()}
    return python | {name: _version(name) for name in packages}


def compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compares what `describe` returned for a run and for the one that resumes it.

    Returns:
      The changes that are allowed but lead to other weights, as events.

    Raises:
      UserError: settings or data differ that decide the weights; names each.
    """
    # A setting that is newer than the checkpoint had its default.
    was, is_now = Config.from_dict(saved["config"]).to_dict(), now["config"]
    differ = [
        f"--{name} was {was[name]!r} and is now {is_now[name]!r}"
        for name in sorted(is_now.keys() - _FREE_ON_RESUME)
        if was[name] != is_now[name]
    ]
    if saved["dataset"]["sha256"] != now["dataset"]["sha256"]:
        name, name_now = saved["dataset"]["name"], now["dataset"]["name"]
        differ.append(
            f"the images or labels of the data set {name} are no longer the same"
            if name == name_now
            else f"the data set was {name} and is now {name_now}"
        )
    if differ:
        raise UserError(
            f"--resume: {'; '.join(differ)}; use the settings that the run was started "
            "with, or --overwrite to start afresh"
        )
    pairs = {
        "epochs": (was["epochs"], is_now["epochs"]),
        # A checkpoint that is older than the setting has one replica.
        "hardware": ({"replicas": 1, **saved["hardware"]}, now["hardware"]),
    }
    return [
        {"event": what, "from": before, "to": after}
        for what, (before, after) in pairs.items()
        if before != after
    ]


def describe_event(event: Mapping[str, Any]) -> str:
    """Describes an event of a run in one line.

    >>> describe_event({"step": 64, "event": "epochs", "from": 2, "to": 3})
    'from step 64 on the learning rate follows the schedule of 3 epochs, not of 2'
    """
    where = f"from step {event['step']} on"
    if event["event"] == "rollback":
        return f"{where} the learning rate was {event['learning_rate']:g} at its peak"
    before, after = event["from"], event["to"]
    if event["event"] == "epochs":
        schedule = f"{where} the learning rate follows the schedule of {after} epochs"
        return f"{schedule}, not of {before}"
    differ = [
        f"{key.replace('_', ' ')} {before[key]} -> {after[key]}"
        for key in after
        if before[key] != after[key]
    ]
    return f"{where} different hardware, which rounds differently: {', '.join(differ)}"


def summary(
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    folders: tuple[Path, Path],
) -> str:
    """Summarises config.json, metrics.json and the folders of model and logs."""
    data, name = description["dataset"], description["model"]["name"]
    images = data["images"].items()
    counts = ", ".join(f"{count:,} {split}" for split, count in images if count)
    if data["skipped"]:
        counts += f"; {_count(data['skipped'], 'damaged file')} skipped"
    lines = [
        f"data        {metrics['dataset']} ({data['origin']}): {counts}",
        f"input       {_input(description['preprocessing'])}",
        f"model       {name}, {metrics['parameters']:,} parameters",
        f"training    {_count(metrics['epochs'], 'epoch')}, "
        f"{_count(metrics['steps'], 'step')}, "
        f"{metrics['images_per_second']:,.0f} images/s",
        *(f"{'':<11} {describe_event(event)}" for event in description["events"]),
    ]
    for split in ("validation", "test"):
        if split in metrics:
            names = sorted(metrics[split], key=lambda name: name != "accuracy")
            shown = [format_metric(name, metrics[split][name]) for name in names]
            lines.append(f"{split:<11} {'  '.join(shown)}")
    seconds = metrics["seconds"].items()
    lines += [
        f"time        {', '.join(f'{name} {value:.1f} s' for name, value in seconds)}",
        f"model in    {folders[0]}",
        f"logs in     {folders[1]}",
    ]
    return "\n".join(lines)


def format_metric(name: str, value: float) -> str:
    """Returns a metric as text: accuracy in per cent, others with four decimals."""
    text = f"{value * 100:.2f}%" if name == "accuracy" else f"{value:.4f}"
    return f"{name} {text}"


def _input(preprocessing: Mapping[str, Any]) -> str:
    """Describes how a picture becomes the input."""
    color = {"rgb": "in colour", "grayscale": "greyscale"}[preprocessing["color"]]
    shown = f"{preprocessing['width']}x{preprocessing['height']} {color}"
    if preprocessing["method"] == "digits":
        return f"{shown}, digits as MNIST's"
    return f"{shown}, photos ({preprocessing['resize']})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _version(package: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    return next((found.version for found in metadata.distributions(name=package)), None)


def git_commit() -> str | None:
    """Returns the commit of this code, `-dirty` if changed; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        output = subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
        return output.strip()

    try:
        # In a checkout of this project, not of one that merely contains it.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
