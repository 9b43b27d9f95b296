"""--profile_steps: a profile of exactly those steps."""

import itertools

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from mnist_tf.config import Config
from mnist_tf.errors import UserError
from mnist_tf.run.profiling import Profiler
from mnist_tf.trainer import Progress
from tests.conftest import contents
from tests.run.test_tensorboard import Stop, train
from tests.test_experiment import differ


def progress(step):
    return Progress(step, 100, 1, 2, False, {})


class TestSettings:
    @pytest.mark.fault
    @pytest.mark.parametrize("value", ["5", "110:100", "1:3", "a:b", "-2:3", "2:3:4"])
    def test_what_is_no_range_of_steps_is_refused(self, value):
        line = (
            "--profile_steps must be first:last, two steps of which the first is at "
            f"least 2, such as 100:110 (got {value!r})"
        )
        with pytest.raises(UserError) as caught:
            Config(profile_steps=value)
        assert str(caught.value) == line

    @pytest.mark.fault
    def test_steps_that_the_run_does_not_have_are_refused(self, tmp_path):
        line = (
            "--profile_steps=10:19 must end by step 18, the last of the run; choose "
            "earlier steps or raise --epochs"
        )
        with pytest.raises(UserError, match=f"^{line}$"):
            train(tmp_path, profile_steps="10:19")
        assert not (tmp_path / "out").exists()


def profiled(log_dir):
    """The names of the events in the profile of a run, with their statistics."""
    (path,) = (log_dir / "plugins" / "profile").glob("*/*.xplane.pb")
    found = []
    for plane in xplane_pb2.XSpace.FromString(path.read_bytes()).planes:
        for event in itertools.chain(*(line.events for line in plane.lines)):
            name = plane.event_metadata[event.metadata_id].name
            names = (plane.stat_metadata[stat.metadata_id].name for stat in event.stats)
            values = (stat.int64_value for stat in event.stats)
            found.append((name, dict(zip(names, values, strict=True))))
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain"))


class TestARun:
    @pytest.mark.parametrize("log_every", [2, 50])
    def test_the_profile_has_exactly_the_steps(self, tmp_path, log_every):
        logs = train(tmp_path, profile_steps="5:8", log_every=log_every).log_dir
        names = [name for name, _ in profiled(logs)]
        # A batch is taken from the pipeline in each step.
        assert names.count("IteratorGetNextOp::DoCompute") == 4
        first = [stats["step_num"] for name, stats in profiled(logs) if name == "train"]
        assert min(first) == 5

    def test_the_weights_are_those_of_a_run_without(self, tmp_path, plain):
        weights = train(tmp_path, profile_steps="5:12").model.get_weights()
        assert not differ(weights, plain.model.get_weights())

    def test_without_the_flag_there_is_none(self, plain):
        assert not (plain.log_dir / "plugins").exists()

    def test_a_resumed_run_keeps_its_profile(self, tmp_path):
        first = train(tmp_path, epochs=1, profile_steps="3:4")
        before = contents(first.log_dir / "plugins")
        train(tmp_path, epochs=2, profile_steps="3:4", resume=True)
        assert contents(first.log_dir / "plugins") == before

    @pytest.mark.fault
    def test_one_that_ends_early_leaves_no_profile(self, tmp_path):
        extensions = {"extra_callbacks": [Stop(9)]}
        with pytest.raises(UserError, match="enough"):
            train(tmp_path, extensions, profile_steps="5:12")
        assert not list(tmp_path.rglob("*.xplane.pb"))
        tf.profiler.experimental.start(str(tmp_path))  # the next one is possible
        tf.profiler.experimental.stop(save=False)


@pytest.mark.fault
def test_a_profile_that_cannot_be_made_is_a_warning(tmp_path, capsys):
    profiler = Profiler(tmp_path, (5, 8))
    tf.profiler.experimental.start(str(tmp_path))
    profiler.start(progress(4))
    tf.profiler.experimental.stop(save=False)
    profiler.stop(progress(8))
    warning = " ".join(capsys.readouterr().err.split())
    assert warning.count("warning:") == 1
    assert "--profile_steps: there will be no profile (Another profiler is" in warning
