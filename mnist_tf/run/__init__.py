"""What surrounds the training loop: callbacks, checkpoints, directories, hardware.

Imports `errors`, `config`, `data`, and of the files at the door the ones it serves,
`trainer` and `artifact`.
"""

from mnist_tf.run.callbacks import (
    Checkpointer,
    EarlyStopping,
    ProgressBar,
    TensorBoardLogger,
)

__all__ = ["Checkpointer", "EarlyStopping", "ProgressBar", "TensorBoardLogger"]
