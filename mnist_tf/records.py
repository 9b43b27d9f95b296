"""What is written down about a run: what it was made of, and what it came to."""

import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from mnist_tf.config import Config
from mnist_tf.datasets import Dataset
from mnist_tf.errors import UserError

# Settings that may change when a run is resumed: the rest decides the weights, and of
# the data the checksum does.
_FREE_ON_RESUME = {
    "dataset", "data_dir", "epochs", "early_stopping", "model_dir", "log_dir", "resume",
    "overwrite", "save_every", "save_every_seconds", "on_nonfinite", "log_every",
    "test_shift",
}  # fmt: skip


def describe(
    config: Config,
    dataset: Dataset,
    splits: Mapping[str, tuple],
    model: keras.Model,
) -> dict[str, Any]:
    """What config.json says of a run: settings, data, model, versions, commit.

    Args:
      config: all settings.
      dataset: what was loaded.
      splits: (images, labels) by the name of the split.
      model: the network.
    """
    packages = ("tensorflow", "keras", "numpy", "ai-edge-litert")
    return {
        "config": config.to_dict(),
        "dataset": {
            "name": dataset.name,
            "origin": dataset.origin,
            "sha256": dataset.sha256,
            "labels": list(dataset.labels),
            "image_shape": list(dataset.train_images.shape[1:]),
            "images": {name: len(labels) for name, (_, labels) in splits.items()},
        },
        "model": {
            "name": config.model,
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
    """Refuses to resume with settings or data that would train something else.

    Args:
      saved: what `describe` said when the run was started.
      now: what it says of the run that is to go on.

    Raises:
      UserError: names each setting that differs.
    """
    # A setting that is newer than the save had its default.
    was, is_now = Config.from_dict(saved["config"]).to_dict(), now["config"]
    differ = [
        f"{name} was {was[name]!r}, is {is_now[name]!r}"
        for name in sorted(is_now.keys() - _FREE_ON_RESUME)
        if was[name] != is_now[name]
    ]
    if saved["dataset"]["sha256"] != now["dataset"]["sha256"]:
        names = saved["dataset"]["name"], now["dataset"]["name"]
        differ.append(f"the data were {names[0]}, are {names[1]}")
    if differ:
        raise UserError(
            f"resume: {'; '.join(differ)}; give what the run was started with, or "
            "--overwrite to start again"
        )


def summary(
    description: Mapping[str, Any],
    metrics: Mapping[str, Any],
    folders: tuple[Path, Path],
) -> str:
    """What a run came to, for the terminal.

    Args:
      description: what config.json says.
      metrics: what metrics.json says.
      folders: of the model and of the curves.
    """
    data, model = description["dataset"], description["model"]
    images = data["images"]
    counts = ", ".join(f"{count:,} {name}" for name, count in images.items() if count)
    lines = [
        f"data        {metrics['dataset']} ({data['origin']}): {counts}",
        f"model       {model['name']}, {metrics['parameters']:,} parameters",
        f"training    {metrics['epochs']} epochs, {metrics['steps']:,} steps, "
        f"{metrics['images_per_second']:,.0f} images/s",
    ]
    for name in ("validation", "test"):
        if name in metrics:
            lines.append(
                f"{name:<11} accuracy {metrics[name]['accuracy'] * 100:.2f} %  "
                f"loss {metrics[name]['loss']:.4f}"
            )
    seconds = metrics["seconds"].items()
    lines += [
        f"time        {', '.join(f'{name} {value:.1f} s' for name, value in seconds)}",
        f"saved in    {folders[0]}",
        f"curves in   {folders[1]}",
    ]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    """The version of a package; None where it is not installed under this name."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit that this code is at, `-dirty` if changed; None outside a checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # A checkout of this project, and not of one that merely holds it.
        for arguments in (
            ["ls-files", "--error-unmatch", here.name],
            ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        ):
            found = subprocess.run(
                [*git, *arguments], capture_output=True, text=True, check=True
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
