"""What a run tells of itself while it goes on."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
      step: steps made so far; `steps` of them make the run.
      epoch: the 1-based epoch of that step; `epochs` of them make the run.
      epoch_done: whether that step was the last of its epoch.
      figures: what was measured: `loss` and `accuracy` (means over the epoch so far),
        `learning_rate` and `images_per_second` (of the last few steps), and, when the
        epoch is done, `validation_loss` and `validation_accuracy`.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    epoch_done: bool
    figures: Mapping[str, float]


Action = Callable[[Progress], None]


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch with the highest validation accuracy, the lowest loss among equals."""
    best = max(history, key=lambda r: (r["validation_accuracy"], -r["validation_loss"]))
    return int(best["epoch"])
