"""Downloads are verified, happen once and never leave an incomplete file."""

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading

import pytest

from mnist_tf.data import downloads
from tests.conftest import IDX_FILES, refusal


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory; responses under /dying/ end early."""

    def do_GET(self):
        self.server.requested.append(self.path)
        if not self.path.startswith("/dying/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"the first few")

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/served; returns the URL and a list of the requested paths."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    handler = functools.partial(Handler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.requested = []
        threading.Thread(target=running.serve_forever, args=[0.01]).start()
        yield f"http://127.0.0.1:{running.server_port}/", running.requested
        running.shutdown()


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Four small files with known checksums to download; returns their contents."""
    files = {f"{name}.gz": gzip.compress(name.encode()) for name in IDX_FILES}
    for mirror in ("good", "wrong"):
        (tmp_path / "served" / mirror).mkdir(parents=True)
        for name, content in files.items():
            written = content if mirror == "good" else b"something else"
            (tmp_path / "served" / mirror / name).write_bytes(written)
    sums = tuple(sha256(content) for content in files.values())
    monkeypatch.setitem(downloads.GZIP_SHA256, "mnist", sums)
    return files


def test_a_file_is_downloaded_once(tmp_path, server, served):
    url, requested = server
    for _ in range(2):
        downloads.download("mnist", (f"{url}good/",), tmp_path / "cache")
    assert requested == [f"/good/{name}" for name in served]
    for name, content in served.items():
        assert (tmp_path / "cache" / name).read_bytes() == content


def test_a_damaged_file_in_the_cache_is_downloaded_again(tmp_path, server, served):
    url, _ = server
    (tmp_path / "cache").mkdir()
    for name, content in served.items():
        (tmp_path / "cache" / name).write_bytes(content[:-1])
    downloads.download("mnist", (f"{url}good/",), tmp_path / "cache")
    for name, content in served.items():
        assert (tmp_path / "cache" / name).read_bytes() == content


@pytest.mark.parametrize("first", ["wrong", "missing", "dying"])
def test_the_next_mirror_is_used_when_one_fails(tmp_path, server, served, first):
    url, requested = server
    mirrors = (f"{url}{first}/", f"{url}good/")
    downloads.download("mnist", mirrors, tmp_path / "cache")
    assert len(requested) == 8
    for name, content in served.items():
        assert (tmp_path / "cache" / name).read_bytes() == content


@pytest.mark.usefixtures("served")
def test_a_failed_download_names_the_mirrors_and_leaves_no_file(tmp_path, server):
    mirrors = tuple(f"{server[0]}{name}/" for name in ("wrong", "missing", "dying"))
    cache = tmp_path / "cache"
    line = refusal(lambda: downloads.download("mnist", mirrors, cache))
    assert line.startswith("cannot download train-images-idx3-ubyte.gz (")
    assert all(mirror in line for mirror in mirrors)
    assert list(cache.iterdir()) == []


class TestAnArchive:
    """A tar file is downloaded, compared with its checksum and unpacked."""

    @pytest.fixture
    def archive(self, tmp_path):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            member = tarfile.TarInfo("inner/file.txt")
            member.size = 5
            tar.addfile(member, io.BytesIO(b"hello"))
        (tmp_path / "served").mkdir()
        (tmp_path / "served" / "data.tar.gz").write_bytes(buffer.getvalue())
        return sha256(buffer.getvalue())

    def test_it_is_unpacked_once(self, tmp_path, server, archive):
        url, requested = server
        directory = tmp_path / "cache" / "data"
        for _ in range(2):
            downloads.download_and_unpack(f"{url}data.tar.gz", archive, directory)
        assert (directory / "inner" / "file.txt").read_text() == "hello"
        assert requested == ["/data.tar.gz"]
        assert sorted(path.name for path in directory.parent.iterdir()) == [
            "data", "data.tar.gz",
        ]  # fmt: skip

    @pytest.mark.fault
    def test_another_checksum_is_refused(self, tmp_path, server, archive):
        directory = tmp_path / "cache" / "data"
        line = refusal(
            downloads.download_and_unpack,
            f"{server[0]}data.tar.gz",
            "0" * 64,
            directory,
        )
        assert line.startswith("cannot download data.tar.gz")
        assert not directory.exists()
