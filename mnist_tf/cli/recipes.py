"""List the packaged flag files.

    mnist_tf recipes

Use one with `mnist_tf train --flagfile=NAME`; a file of that name in the current
directory comes first.
"""

from collections.abc import Sequence

from mnist_tf.cli import parsing


def main(argv: Sequence[str]) -> None:
    """Prints each recipe with the comment that it starts with."""
    parsing.parse(argv, __doc__ or "", lambda values: None, dict)
    for path in sorted(parsing.RECIPES.glob("*.cfg")):
        comment = path.read_text(encoding="utf-8").partition("\n")[0]
        print(f"{path.name:<12}{comment.removeprefix('# ')}")
