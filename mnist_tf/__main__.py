"""`python -m mnist_tf COMMAND`, the same as the command `mnist_tf`."""

from mnist_tf.cli.main import main

main()
