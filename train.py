"""Trains a network and writes a model directory.

    python train.py --flagfile=configs/base.cfg [--any_flag=value ...]

The flag file comes first: flags apply from left to right, and the last one counts.
Progress goes to standard error, the summary to standard output.
"""

from collections.abc import Sequence

from mnist_tf import command, quiet
from mnist_tf.config import Config


def main(argv: Sequence[str]) -> None:
    """Trains as the flags say and prints the summary."""

    def to_config(values: command.Values) -> Config:
        # After --help is answered, because TensorFlow takes seconds to import.
        quiet.import_tensorflow()
        from mnist_tf import experiment

        return Config.from_strings(values, experiment.KNOWN_NAMES)

    config = command.parse(argv, command.config_flags(), __doc__ or "", to_config)
    from mnist_tf import experiment

    print(experiment.run(config))


if __name__ == "__main__":
    command.run(main)
