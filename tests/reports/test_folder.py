"""A folder is replaced as a whole, or stays as it was."""

import pytest

from mnist_tf.errors import UserError
from mnist_tf.reports import folder
from tests.conftest import contents, refusal, small_disk

NAMES = ("page", "figures")


def write(path, text="new", names=NAMES):
    with folder.replaced(path, "--report", NAMES) as place:
        for name in names:
            (place / name).write_text(text)


def test_a_folder_is_made_with_its_parents(tmp_path):
    write(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "figures", "page"
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_an_earlier_one_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "report", "old")
    write(tmp_path / "report", "new", ["page"])
    assert contents(tmp_path) == {tmp_path / "report" / "page": b"new"}


def test_a_link_stays_and_what_it_names_is_replaced(tmp_path):
    write(tmp_path / "report", "old")
    (tmp_path / "link").symlink_to("report")
    write(f"{tmp_path / 'link'}/")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "report" / "page").read_text() == "new"


@pytest.mark.fault
def test_a_failure_keeps_the_earlier_one(tmp_path):
    write(tmp_path / "report", "old")
    before = contents(tmp_path)
    with (
        pytest.raises(KeyError),
        folder.replaced(tmp_path / "report", "--report", NAMES) as place,
    ):
        (place / "page").write_text("half of")
        raise KeyError
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.fault
def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("Chapter 1")
    line = refusal(write, tmp_path)
    assert "holds 'thesis.tex', which is no part of a report" in line
    line = refusal(write, tmp_path / "thesis.tex")
    assert "thesis.tex is a file; give a folder" in line


@pytest.mark.fault
def test_a_full_disk_keeps_the_earlier_one(tmp_path):
    with small_disk(tmp_path / "disk", "size=64k") as disk:
        write(disk / "report", "old")
        before = contents(disk)
        with pytest.raises(UserError, match="No space left on device"):
            write(disk / "report", "x" * 100_000)
        assert contents(disk) == before
        assert [path.name for path in disk.iterdir()] == ["report"]


@pytest.mark.fault
def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    line = refusal(write, tmp_path / "file" / "report")
    assert "file/report cannot be written (File exists); give another folder" in line
