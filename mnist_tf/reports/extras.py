"""What a report has where it was asked for."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mnist_tf.reports.outsiders import Outsiders
from mnist_tf.reports.paired import Comparison
from mnist_tf.reports.robustness import Outcome


@dataclasses.dataclass(frozen=True)
class Extras:
    """Parts of a report that cost more time.

    Attributes:
      comparisons: with other models on the same images.
      robustness: the accuracy on images that were made worse.
      outsiders: the predictions for images of none of the classes.
    """

    comparisons: Sequence[Comparison] = ()
    robustness: Sequence[Outcome] = ()
    outsiders: Outsiders | None = None

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns the figures as JSON types."""
        outsiders = self.outsiders
        return {
            "against": [each.as_dict(names) for each in self.comparisons],
            "robustness": [each.as_dict() for each in self.robustness],
            "outsiders": None if outsiders is None else outsiders.as_dict(names),
        }
