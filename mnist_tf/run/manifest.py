"""The manifest of a run: what it was made of, and what it achieved."""

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from mnist_tf.config import Config
from mnist_tf.data.datasets import Dataset
from mnist_tf.errors import UserError
from mnist_tf.run.callbacks import format_metric

# Settings that may change when a run is resumed. The others decide the weights; the
# data are compared by their checksum.
_FREE_ON_RESUME = {
    "dataset", "data_dir", "epochs", "early_stopping", "model_dir", "log_dir", "resume",
    "overwrite", "save_every", "save_every_seconds", "on_nonfinite", "log_every",
    "test_shift",
}  # fmt: skip


def describe(
    settings: Mapping[str, Any],
    dataset: Dataset,
    splits: Mapping[str, tuple],
    model: keras.Model,
) -> dict[str, Any]:
    """Returns what config.json says of a run: settings, data, model, versions, commit.

    Settings are JSON types; `splits` maps names to (images, labels).
    """
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    return {
        "config": settings,
        "dataset": {
            "name": dataset.name,
            "origin": dataset.origin,
            "sha256": dataset.sha256,
            "labels": list(dataset.labels),
            "image_shape": list(dataset.train_images.shape[1:]),
            "images": {name: len(labels) for name, (_, labels) in splits.items()},
        },
        "model": {
            "name": settings["model"],
            "class": type(model).__name__,
            "parameters": model.count_params(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        "git_commit": _git_commit(),
    }


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares what `describe` returned for a run and for the one that resumes it.

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
        names = saved["dataset"]["name"], now["dataset"]["name"]
        differ.append(f"the data set was {names[0]} and is now {names[1]}")
    if differ:
        raise UserError(
            f"--resume: {'; '.join(differ)}; use the settings that the run was started "
            "with, or --overwrite to start afresh"
        )


def summary(
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    folders: tuple[Path, Path],
) -> str:
    """Summarises config.json, metrics.json and the folders of model and logs."""
    data, name = description["dataset"], description["model"]["name"]
    images = data["images"].items()
    counts = ", ".join(f"{count:,} {split}" for split, count in images if count)
    lines = [
        f"data        {metrics['dataset']} ({data['origin']}): {counts}",
        f"model       {name}, {metrics['parameters']:,} parameters",
        f"training    {metrics['epochs']} epochs, {metrics['steps']:,} steps, "
        f"{metrics['images_per_second']:,.0f} images/s",
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


def _version(package: str) -> str | None:
    """Returns the version of a package; None where it is not installed."""
    return next((found.version for found in metadata.distributions(name=package)), None)


def _git_commit() -> str | None:
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
