"""The directories of a run: what is refused, the lock, and names for logs."""

import os
import re
import time

import pytest

from mnist_tf.errors import UserError
from mnist_tf.run import directory
from tests.conftest import small_disk


def check(folder, **settings):
    settings = {"resume": False, "overwrite": False, **settings}
    directory.check(str(folder / "out"), str(folder / "logs"), **settings)


def test_new_directories_are_accepted_and_not_created(tmp_path):
    check(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_group_that_shares_a_directory_shares_its_lock(tmp_path):
    before = os.umask(0o002)
    try:
        with directory.locked(str(tmp_path)):
            assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o664
    finally:
        os.umask(before)


@pytest.mark.fault
def test_a_directory_that_is_a_file_is_named_with_all_others(tmp_path):
    (tmp_path / "out").write_text("mine")
    (tmp_path / "logs").write_text("mine")
    with pytest.raises(UserError) as error:
        check(tmp_path)
    assert str(error.value) == "; ".join(
        f"--{flag} {tmp_path / name} is a file; choose a directory"
        for flag, name in (("model_dir", "out"), ("log_dir", "logs"))
    )


@pytest.mark.fault
def test_nothing_is_written_among_folders_that_are_labels(tmp_path):
    # The next run would take them for labels, with the curves in report.png as images.
    for label in ("cats", "dogs"):
        (tmp_path / label).mkdir()
    line = f"--model_dir {tmp_path}/out is in --data_dir {tmp_path}, where each folder"
    with pytest.raises(UserError, match=f"^{re.escape(line)}.*; --log_dir .*/logs is"):
        check(tmp_path, data_dir=str(tmp_path))
    with pytest.raises(UserError, match=f"; --cache_dir {tmp_path}/cache is in"):
        check(
            tmp_path / "elsewhere" / "new",
            data_dir=str(tmp_path),
            cache_dir=f"{tmp_path}/cache",
        )
    check(tmp_path / "elsewhere", data_dir=str(tmp_path / "cats"))
    (tmp_path / "train").mkdir()
    check(tmp_path, data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"is a label; choose one elsewhere(;|$)"):
        check(tmp_path / "test", data_dir=str(tmp_path))
    with pytest.raises(UserError, match=r"^--log_dir .*/test is in --data_dir"):
        directory.check(
            f"{tmp_path}/new", f"{tmp_path}/test", resume=False, overwrite=False,
            data_dir=str(tmp_path),
        )  # fmt: skip
    (tmp_path / "labels.csv").write_text("file,label")
    check(tmp_path / "test", data_dir=str(tmp_path))


@pytest.mark.fault
@pytest.mark.parametrize("left", ["config.json", "model.weights.h5", "checkpoints/x"])
def test_a_model_or_an_unfinished_run_is_only_replaced_on_request(tmp_path, left):
    if left == "checkpoints/x":
        left = "checkpoints/step-000000010.npz"
        (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / left).write_text("mine")
    line = f"--model_dir {tmp_path}/out holds a model or an unfinished run; use"
    with pytest.raises(UserError, match=f"^{re.escape(line)}"):
        check(tmp_path)
    check(tmp_path, overwrite=True)
    assert (tmp_path / "out" / left).read_text() == "mine"


@pytest.mark.fault
def test_a_run_without_a_checkpoint_cannot_be_resumed(tmp_path):
    with pytest.raises(UserError, match=r"^--resume: .* no checkpoint; omit --resume"):
        check(tmp_path, resume=True)


@pytest.mark.fault
def test_auto_resumes_a_run_and_starts_one_where_nothing_would_be_lost(tmp_path):
    check(tmp_path, resume="auto")
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    (tmp_path / "out" / "checkpoints" / "step-000000010.npz").write_text("mine")
    check(tmp_path, resume="auto")
    (tmp_path / "out" / "checkpoints" / "step-000000010.npz").unlink()
    (tmp_path / "out" / "config.json").write_text("mine")
    with pytest.raises(UserError, match="holds a model or an unfinished run"):
        check(tmp_path, resume="auto")


@pytest.mark.fault
def test_the_lock_names_its_holder_and_is_released(tmp_path):
    out = tmp_path / "out"
    with directory.locked(str(out)):
        line = f"{out} is in use by process {os.getpid()}; wait for it or choose"
        with (
            pytest.raises(UserError, match=f"^--model_dir {re.escape(line)}"),
            directory.locked(str(out)),
        ):
            pass
    assert not (out / ".lock").exists()
    (out / ".lock").write_text("process 1")  # which did not remove it
    with directory.locked(str(out)):
        pass


def test_runs_that_start_at_the_same_time_have_different_log_names(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-120000")
    names = [directory.new_log_name(str(tmp_path / "logs"), "cnn") for _ in range(3)]
    stem = "20260101-120000-cnn"
    assert names == [stem, f"{stem}+2", f"{stem}+3"]
    assert {path.name for path in (tmp_path / "logs").iterdir()} == set(names)


@pytest.mark.fault
@pytest.mark.parametrize("flag", ["--model_dir", "--log_dir"])
def test_a_full_disk_is_named_with_its_flag(tmp_path, flag):
    with small_disk(tmp_path, "size=4k,nr_inodes=2"):
        (tmp_path / "last").touch()  # the last inode
        line = f"^{flag} {tmp_path}/new cannot be written to \\(No space left on device"
        with pytest.raises(UserError, match=line):
            if flag == "--log_dir":
                directory.new_log_name(str(tmp_path / "new"), "cnn")
            else:
                with directory.locked(str(tmp_path / "new")):
                    pass
