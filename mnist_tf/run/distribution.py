"""Distribution strategies by name, and the checks that all workers train the same."""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from mnist_tf.config import Config
from mnist_tf.errors import UserError, native_output_hidden
from mnist_tf.run.cluster import Cluster, Workers, find
from mnist_tf.run.manifest import git_commit, versions

# What may differ from worker to worker: where things are, and how many threads it has.
_OWN = ("data_dir", "cache_dir", "model_dir", "log_dir", "intra_op_threads",
        "inter_op_threads", "cluster_timeout")  # fmt: skip


def find_cluster(strategy: str) -> Cluster | None:
    """Returns the cluster of a run with that strategy; None for one process.

    Raises:
      UserError: there must be a cluster, and none is described.
    """
    if strategy in ("single", "mirrored"):
        return None
    cluster = find()
    if strategy == "multi_worker" and cluster is None:
        raise UserError(
            "--strategy=multi_worker needs a cluster, but neither TF_CONFIG nor Slurm "
            "describes one; set TF_CONFIG, or use --strategy=auto"
        )
    return cluster


def create(strategy: str, cluster: Cluster | None) -> tf.distribute.Strategy:
    """Creates the strategy called `strategy`, or the one that fits for "auto".

    It must precede all other use of TensorFlow if there is a cluster.
    """
    if cluster and len(cluster.addresses) > 1:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": cluster.addresses}),
            task_type="worker",
            task_id=cluster.index,
            rpc_layer="grpc",
        )
        # TensorFlow's coordination service, its default, waits for the others while it
        # holds Python's lock, so that no thread of ours could notice that one is lost.
        # It also ends the process by itself, and takes SIGTERM over.
        context.context().configure_coordination_service(service_type="")
        with native_output_hidden():
            return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    several = len(tf.config.list_physical_devices("GPU")) > 1
    if strategy == "mirrored" or (strategy != "single" and several):
        return _mirrored()
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    """One for all runs of a process: another would reuse the names of its messages."""
    return tf.distribute.MirroredStrategy()


def check_settings(workers: Workers, config: Config) -> None:
    """Rejects workers with other versions or settings than the chief.

    Raises:
      UserError: names each worker and what differs.
    """
    settings = {
        f"--{name}": value
        for name, value in config.to_dict().items()
        if name not in _OWN
    }
    code = {"commit": git_commit(), **versions()}
    advice = "start all workers with the same code and settings"
    _check(workers, {**code, **settings}, advice)


def check_state(workers: Workers, **checksums: str) -> None:
    """Rejects workers that see other data or another checkpoint than the chief.

    Arguments are checksums by name.

    Raises:
      UserError: names each worker and what differs.
    """
    what = {f"{name} (SHA-256)": each for name, each in checksums.items()}
    _check(workers, what, "put all of them on storage that the workers share")


def _check(workers: Workers, what: Mapping[str, Any], mend: str) -> None:
    everyone = workers.gather(dict(what))
    problems = [
        f"worker {index} has {key} {_shown(mine.get(key))}, but the chief "
        f"{_shown(value)}"
        for index, mine in enumerate(everyone)
        for key, value in everyone[0].items()
        if mine.get(key) != value
    ]
    if problems:
        raise UserError(f"{'; '.join(problems)}; {mend}")


def _shown(value: Any) -> str:
    return "none" if value in (None, "") else str(value)
