"""Array files are read completely or refused, whatever their headers declare."""

import contextlib
import gzip
import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_tf.data import arrays
from mnist_tf.data.arrays import read_idx
from mnist_tf.errors import UserError
from tests.conftest import damaged, idx_bytes, refusal, write_idx

DIGITS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def read_npy(path):
    with arrays.open_file(path) as file:
        return arrays.read_npy(file, path.stat().st_size, str(path))


def read_npz(path):
    with arrays.open_file(path) as file:
        return arrays.read_npz(file, str(path))


def npy(header, data=b"", version=1):
    text = header.encode("latin-1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def npy_of(dtype, shape, version=1, data=b"0"):
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}}}"
    return npy(header, data, version)


def saved(save, *arrays, **named):
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


def zipped(content, method=zipfile.ZIP_DEFLATED, declared=None):
    """An npz with one member that may declare a wrong size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", content)
        archive.infolist()[0].file_size = declared or len(content)
    return buffer.getvalue()


def idx_declaring(count):
    """The header of a three-dimensional IDX file with about `count` values."""
    side = round(count ** (1 / 3))
    return struct.pack(">4B3I", 0, 0, 8, 3, side, side, count // side**2)


NPY, IDX = saved(np.save, DIGITS), idx_bytes(DIGITS)
NPZ = saved(np.savez_compressed, DIGITS, b=DIGITS)
LZMA = bytearray(zipped(saved(np.save, np.arange(999)), zipfile.ZIP_LZMA))
LZMA[100] ^= 255
GZIP = gzip.compress(IDX)
FLIPPED = bytearray(gzip.compress(IDX, compresslevel=0))
FLIPPED[-12] ^= 1  # the last value, just before the checksum


@pytest.mark.parametrize("name", ["<u1", "<i8", ">i4", ">f4", "<f8", "<f2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_arrays_of_numbers_are_read_as_saved(tmp_path, name, order):
    array = np.array(DIGITS, name, order=order)
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


def test_an_npy_array_can_start_anywhere_in_a_file():
    content = saved(np.save, DIGITS)
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    found = arrays.read_npy(file, len(content), "a.npy")
    np.testing.assert_array_equal(found, DIGITS)


def test_npy_version_2_is_read(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_of("'<u1'", "(2,)", 2, b"ab"))
    assert read_npy(tmp_path / "a.npy").tolist() == [97, 98]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_all_arrays_of_an_npz_are_read_by_name(tmp_path, save):
    save(tmp_path / "a.npz", DIGITS, other=DIGITS[0])
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["arr_0"], DIGITS)
    np.testing.assert_array_equal(found["other"], DIGITS[0])
    assert found.keys() == {"arr_0", "other"}


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("array", [DIGITS, DIGITS[0], DIGITS[0, 0]])
def test_idx_is_read_gzipped_or_not(tmp_path, array, gzipped):
    write_idx(tmp_path / "a", array, gzipped)
    found = read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.uint8


@pytest.mark.fault
@pytest.mark.parametrize("read", [read_npy, read_npz, read_idx])
@pytest.mark.parametrize(
    ("name", "words"),
    [("none", "does not exist"), ("", "is a directory"), ("\0", "cannot be read")],
)
def test_a_path_that_is_not_a_file_is_refused(tmp_path, read, name, words):
    line = refusal(read, tmp_path / name)
    assert line.startswith(f"{tmp_path / name} {words}")


HUGE = 10**12
HUGE_AND_EMPTY = npy_of("'<u1'", f"(0, {HUGE**2})", data=b"")
FAULTS = {
    "npy, empty": (read_npy, b"", "npy header: "),
    "npy, other bytes": (read_npy, b"text", "npy header: "),
    "npy, cut in the header": (read_npy, NPY[:50], "npy header: "),
    "npy, header that does not end": (read_npy, npy("("), "npy header: "),
    "npy, header that is too deep": (read_npy, npy("(" * 9000), "npy header: "),
    "npy, no dtype": (read_npy, npy_of("()", "(1,)"), "npy header: "),
    "npy, version 3": (read_npy, npy_of("'<u1'", "(1,)", 3), "unsupported version 3.0"),
    "npy, cut in the data": (read_npy, NPY[:-1], "24 bytes of data, but it holds 23"),
    "npy, trailing byte": (read_npy, NPY + b"0", "24 bytes of data, but it holds 25"),
    "npy, huge": (read_npy, npy_of("'<u1'", f"({HUGE},)"), "1,000,000,000,000)"),
    "npy, huge and empty": (read_npy, HUGE_AND_EMPTY, "npy header: "),
    "npy, negative shape": (read_npy, npy_of("'<u1'", "(-1,)"), "shape (-1,)"),
    "npy, boolean shape": (read_npy, npy_of("'<u1'", "(True,)"), "npy header: "),
    "npy, 99 dimensions": (read_npy, npy_of("'<u1'", str((1,) * 99)), "npy header: "),
    "npy, void": (read_npy, npy_of("'|V0'", f"({HUGE},)"), "V0"),
    "npy, complex": (read_npy, saved(np.save, np.array([1j])), "complex128"),
    "npy, dates": (read_npy, saved(np.save, np.array([0], "M8[s]")), "datetime64"),
    "npy, text": (read_npy, saved(np.save, np.array(["a"])), "<U1"),
    "npy, structured": (read_npy, saved(np.save, np.zeros(2, "i4,f4")), "'<f4')"),
    "npz, empty": (read_npz, b"", "is damaged: "),
    "npz, other bytes": (read_npz, b"PK no archive", "is damaged: "),
    "npz, cut at the end": (read_npz, NPZ[:-30], "is damaged: "),
    "npz, cut at the start": (read_npz, NPZ[50:], "is damaged: "),
    "npz, damaged LZMA": (read_npz, bytes(LZMA), "Corrupt input data"),
    "npz, of other files": (read_npz, zipped(b"no array"), "a.npy is damaged"),
    "npz, bomb": (read_npz, zipped(NPY, declared=10**9), "declares 1,000,000,000)"),
    "npz, wrong size": (read_npz, zipped(NPY, declared=len(NPY) + 9), "it holds 33"),
    "idx, empty": (read_idx, b"", "starts with nothing"),
    "idx, wrong magic": (read_idx, b"\x01\0\x08\x03", "starts with 01000803"),
    "idx, of floats": (read_idx, b"\0\0\x0d\x03" + IDX[4:], "starts with 00000d03"),
    "idx, cut in the header": (read_idx, IDX[:10], "is damaged: "),
    "idx, cut in the data": (read_idx, IDX[:-1], "24 bytes of data, but it holds 23"),
    "idx, trailing byte": (read_idx, IDX + b"0", "24 bytes of data, but it holds 25"),
    "idx, huge": (read_idx, idx_declaring(HUGE), "declares 1,000,000,000,000)"),
    "gz, huge": (read_idx, gzip.compress(idx_declaring(HUGE)), "1,000,000,000,000"),
    "gz, cut": (read_idx, GZIP[:-9], "is damaged: "),
    "gz, flipped bit": (read_idx, bytes(FLIPPED), "CRC check failed"),
    "gz, too few bytes": (read_idx, gzip.compress(IDX[:-1]), "but it holds 23"),
    "gz, too many bytes": (read_idx, gzip.compress(IDX + b"0"), "but it holds more"),
}


@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_refused(tmp_path, fault):
    read, content, words = FAULTS[fault]
    path = tmp_path / "file"
    path.write_bytes(content)
    line = refusal(read, path)
    assert line.startswith(str(path))
    assert words in line


@pytest.mark.fault
@pytest.mark.parametrize(
    ("save", "read", "name"),
    [(np.save, read_npy, "a.npy"), (np.savez, read_npz, "a.npz")],
)
def test_objects_are_never_unpickled(tmp_path, save, read, name):
    mark = tmp_path / "unpickled"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    save(tmp_path / name, np.array([Payload()]), allow_pickle=True)
    assert "an array of numbers (got object" in refusal(read, tmp_path / name)
    assert not mark.exists()


@pytest.mark.fault
@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_npy, npy_of("'<u1'", "(900_000_000,)")),
        (read_npz, zipped(npy_of("'<u1'", "(900_000_000,)"), declared=9 * 10**8)),
        (read_idx, idx_declaring(900_000_000)),
        (read_idx, gzip.compress(idx_declaring(900_000_000))),
    ],
    ids=["npy", "npz", "idx", "idx.gz"],
)
def test_no_memory_is_allocated_for_a_wrong_header(tmp_path, read, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refusal(read, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.fault
@pytest.mark.parametrize(
    ("read", "content"),
    [(read_npy, NPY), (read_idx, IDX), (read_idx, GZIP)],
    ids=["npy", "idx", "idx.gz"],
)
def test_an_array_above_the_limit_is_refused(tmp_path, monkeypatch, read, content):
    monkeypatch.setattr(arrays, "MAX_BYTES", 23)
    (tmp_path / "file").write_bytes(content)
    line = refusal(read, tmp_path / "file")
    expected = "must hold at most 23 bytes (its header declares 24)"
    assert line == f"{tmp_path / 'file'} {expected}"


def test_the_limit_is_for_all_arrays_of_an_npz_together(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 1000)
    np.savez(tmp_path / "a.npz", *[np.zeros(400, np.uint8)] * 3)
    assert "at most 1,000 bytes" in refusal(read_npz, tmp_path / "a.npz")


def test_max_bytes_replaces_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_BYTES", 23)
    np.savez(tmp_path / "a.npz", DIGITS)
    with arrays.open_file(tmp_path / "a.npz") as file:
        assert arrays.read_npz(file, "a.npz", max_bytes=1000).keys() == {"arr_0"}


@pytest.mark.fault
@pytest.mark.parametrize(
    ("read", "good"),
    [(read_npy, [NPY]), (read_npz, [NPZ]), (read_idx, [IDX, GZIP])],
    ids=["npy", "npz", "idx"],
)
@given(data=st.data())
def test_any_bytes_are_arrays_or_refused(tmp_path_factory, read, good, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data.draw(damaged(*good)))
    with contextlib.suppress(UserError):
        found = read(path)
        found = found.values() if isinstance(found, dict) else [found]
        assert all(isinstance(array, np.ndarray) for array in found)
