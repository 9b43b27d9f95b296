"""Arrays are read whole or refused, whatever the header says."""

import contextlib
import gzip
import io
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import idx_bytes, refusal, write_idx
from hypothesis import given
from hypothesis import strategies as st

from mnist_tf import formats
from mnist_tf.errors import UserError

DIGITS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
HEADER = "{'descr': %s, 'fortran_order': False, 'shape': %s}"


def read_npy(path):
    with formats.opened(path) as file:
        return formats.read_npy(file, path.stat().st_size, str(path))


def read_npz(path):
    with formats.opened(path) as file:
        return formats.read_npz(file, str(path))


def npy(header, data=b"", version=1):
    text = header.encode("latin-1") + b"\n"
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def saved(save, *arrays, **named):
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


def zipped(content, method=zipfile.ZIP_DEFLATED, claimed=None):
    """An npz of one member, whose size may be a lie."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", content)
        archive.infolist()[0].file_size = claimed or len(content)
    return buffer.getvalue()


def idx_claiming(*sizes):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)


NPY, IDX = saved(np.save, DIGITS), idx_bytes(DIGITS)
NPZ = saved(np.savez_compressed, DIGITS, b=DIGITS)
LZMA = bytearray(zipped(saved(np.save, np.arange(999)), zipfile.ZIP_LZMA))
LZMA[100] ^= 255
GZIP = gzip.compress(IDX)
FLIPPED = bytearray(gzip.compress(IDX, compresslevel=0))
FLIPPED[-12] ^= 1  # the last value, just before the checksum


@pytest.mark.parametrize("name", ["<u1", "<i8", ">i4", ">f4", "<f8", "<f2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_numbers_is_read_as_numpy_saved_it(tmp_path, name, order):
    array = np.array(DIGITS, name, order=order)
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder("=")


def test_version_2_of_npy_is_read_too(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(HEADER % ("'<u1'", "(2,)"), b"ab", version=2))
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
    found = formats.read_idx(tmp_path / "a")
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("read", [read_npy, read_npz, formats.read_idx])
@pytest.mark.parametrize(
    ("name", "words"), [("none", "no such file"), ("", "folder"), ("\0", "null")]
)
def test_what_is_no_file_is_refused(tmp_path, read, name, words):
    path = tmp_path / name
    with pytest.raises(UserError, match=words) as caught:
        read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("read", "content", "words"),
    [
        (read_npy, b"", "damaged npy header"),
        (read_npy, b"no array", "damaged npy header"),
        (read_npy, NPY[:50], "damaged npy header"),
        (read_npy, npy("("), "damaged npy header"),
        (read_npy, npy("(" * 9000), "damaged npy header"),
        (read_npy, npy(HEADER % ("()", "(1,)"), b"\0"), "damaged npy header"),
        (read_npy, npy(HEADER % ("'<u1'", "(1,)"), b"\0", 3), "npy version 3.0"),
        (read_npy, NPY[:-1], "claims 24 bytes of data, but it holds 23"),
        (read_npy, NPY + b"\0", "claims 24 bytes of data, but it holds 25"),
        (read_npy, npy(HEADER % ("'<u1'", "(10**12,)")), "damaged npy header"),
        (read_npy, npy(HEADER % ("'<u1'", f"({10**12},)")), "1,000,000,000,000 bytes"),
        (read_npy, npy(HEADER % ("'<u1'", f"(0, {10**30})")), "of shape (0, 1000"),
        (read_npy, npy(HEADER % ("'<u1'", "(-1,)")), "shape (-1,)"),
        (read_npy, npy(HEADER % ("'<u1'", "(True,)"), b"\0"), "shape (True,)"),
        (read_npy, npy(HEADER % ("'<u1'", (1,) * 99), b"\0"), "shape (1, 1, 1"),
        (read_npy, npy(HEADER % ("'|V0'", f"({10**12},)")), "V0"),
        (read_npy, saved(np.save, np.array([1j])), "complex128"),
        (read_npy, saved(np.save, np.array([0], "M8[s]")), "datetime64"),
        (read_npy, saved(np.save, np.array(["a"])), "<U1"),
        (read_npy, saved(np.save, np.zeros(2, "i4,f4")), "('f1', '<f4')"),
        (read_npz, b"", "damaged npz"),
        (read_npz, b"PK no archive", "damaged npz"),
        (read_npz, NPZ[:-30], "damaged npz"),
        (read_npz, NPZ[50:], "damaged npz"),
        (read_npz, bytes(LZMA), "Corrupt input data"),
        (read_npz, zipped(b"no array"), "a.npy: damaged npy header"),
        (read_npz, zipped(NPY, claimed=10**9), "to 1,000,000,000; the most"),
        (read_npz, zipped(NPY, claimed=len(NPY) + 9), "24 bytes of data, but it holds"),
        (formats.read_idx, b"", "starts with nothing"),
        (formats.read_idx, b"\x01\0\x08\x03", "starts with 01000803"),
        (formats.read_idx, b"\0\0\x0d\x03" + IDX[4:], "starts with 00000d03"),
        (formats.read_idx, IDX[:10], "damaged"),
        (formats.read_idx, IDX[:-1], "claims 24 bytes of data, but it holds 23"),
        (formats.read_idx, IDX + b"\0", "claims 24 bytes of data, but it holds 25"),
        (formats.read_idx, idx_claiming(10**4, 10**4, 10**4), "1,000,000,000,000"),
        (formats.read_idx, gzip.compress(idx_claiming(10**6, 10**6)), "1,000,000,000"),
        (formats.read_idx, GZIP[:-9], "damaged"),
        (formats.read_idx, bytes(FLIPPED), "CRC check failed"),
        (formats.read_idx, gzip.compress(IDX[:-1]), "but it holds 23"),
        (formats.read_idx, gzip.compress(IDX + b"\0"), "but it holds more"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, read, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    line = refusal(read, path)
    assert line.startswith(str(path))
    assert words in line


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
    assert "save an array of plain numbers" in refusal(read, tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_npy, npy(HEADER % ("'<u1'", "(900000000,)"), b"few")),
        (read_npz, zipped(npy(HEADER % ("'<u1'", "(900000000,)")), claimed=9 * 10**8)),
        (formats.read_idx, idx_claiming(30_000, 30_000)),
        (formats.read_idx, gzip.compress(idx_claiming(30_000, 30_000))),
    ],
)
def test_a_lying_header_costs_no_memory(tmp_path, read, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        refusal(read, path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**20


def test_the_limit_holds_for_all_arrays_of_an_npz_together(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_BYTES", 1000)
    np.savez(tmp_path / "a.npz", *[np.zeros(400, np.uint8)] * 3)
    assert "the most is 1,000" in refusal(read_npz, tmp_path / "a.npz")


@st.composite
def files(draw):
    """A reader and a file for it: random, or a good one with bytes changed or lost."""
    good = {read_npy: [NPY], read_npz: [NPZ], formats.read_idx: [IDX, GZIP]}
    read = draw(st.sampled_from(list(good)))
    content = bytearray(draw(st.sampled_from(good[read]) | st.binary()))
    places = st.integers(0, max(len(content) - 1, 0))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)))):
        content[place : place + 1] = [value]
    return read, content[: draw(st.none() | places)]


@given(files())
def test_any_file_gives_arrays_or_is_refused(tmp_path_factory, file):
    read, content = file
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        found = read(path)
        found = found.values() if isinstance(found, dict) else [found]
        assert all(isinstance(array, np.ndarray) for array in found)
