"""Image files and arrays are read as uint8 [n, 28, 28], or refused with one line."""

import contextlib
import io
import os
import struct
import subprocess
import sys
import textwrap
import threading
import zlib

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from mnist_tf.data import Preprocessing, digits, images
from mnist_tf.errors import UserError
from tests.conftest import damaged, encoded, refusal

DIGITS = Preprocessing("digits", 28, 28, "grayscale")


def read(path, *preprocess):
    return images.read(str(path), DIGITS, *preprocess)


@pytest.fixture
def large(digit):
    """The digit, ten times as large and dark on light."""
    return Image.fromarray(255 - np.kron(digit, np.ones((10, 10), np.uint8)))


class TestArrays:
    @pytest.mark.parametrize("end", [(), (1,)])
    @pytest.mark.parametrize("start", [(), (1,), (3,), (28,)])
    def test_every_shape_of_images_becomes_n_28_28(self, start, end):
        array = np.random.default_rng(1).integers(256, size=(*start, 28, 28, *end))
        found = images.from_array(array, "array", DIGITS)
        np.testing.assert_array_equal(found, array.reshape(-1, 28, 28))

    @pytest.mark.parametrize(
        "shape", [
            (), (28,), (784,), (27, 28), (3, 784), (3, 28, 27), (3, 28, 28, 3),
            (2, 3, 28, 28),
        ],
    )  # fmt: skip
    def test_other_shapes_are_refused(self, shape):
        line = refusal(images.from_array, np.zeros(shape, np.uint8), "array", DIGITS)
        expected = "array must have shape [28, 28] or [n, 28, 28]"
        assert line == f"{expected} (got {list(shape)})"

    def test_an_array_without_images_is_refused(self):
        line = refusal(
            images.from_array, np.zeros((0, 28, 28), np.uint8), "array", DIGITS
        )
        assert line == "array must hold at least one image (got shape [0, 28, 28])"

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64])
    def test_integers_are_kept(self, digit, dtype):
        found = images.from_array(digit.astype(dtype), "array", DIGITS)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found[0], digit)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_floats_from_0_to_1_are_scaled_to_255(self, digit, dtype):
        found = images.from_array((digit / 255).astype(dtype), "array", DIGITS)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found[0], digit)

    def test_floats_are_rounded_to_the_nearest_integer(self):
        array = np.full((28, 28), 3.6 / 255)
        assert np.unique(images.from_array(array, "array", DIGITS)) == [4]

    def test_true_is_255(self, digit):
        found = images.from_array(digit > 100, "array", DIGITS)
        np.testing.assert_array_equal(found[0], (digit > 100) * 255)

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (1.5, "must hold floats between 0 and 1 or integers between 0 and 255"),
            (1.5, "(got float64 from 0.0 to 1.5)"),
            (-0.1, "(got float64 from -0.1 to 0.0)"),
            (np.nan, "(got float64 from nan to nan)"),
            (np.inf, "(got float64 from 0.0 to inf)"),
            (256, "must hold integers between 0 and 255 (got int64 from 0 to 256)"),
            (-1, "array must hold integers between 0 and 255 (got int64 from -1 to 0)"),
            (1, "must not hold the integers 0 and 1 only; multiply by 255, or convert"),
        ],
    )
    def test_values_out_of_range_are_refused(self, value, words):
        array = np.zeros((28, 28), type(value))
        array[3, 4] = value
        assert words in refusal(images.from_array, array, "array", DIGITS)

    @pytest.mark.parametrize("channels", [2, 4])
    def test_an_alpha_channel_is_refused(self, channels):
        array = np.zeros((20, 30, channels), np.uint8)
        for preprocessing in (DIGITS, Preprocessing("photo", 8, 8, "rgb")):
            line = refusal(images.from_array, array, "array", preprocessing)
            assert line.endswith(f"(got [20, 30, {channels}])")

    @pytest.mark.parametrize("preprocess", images.PREPROCESS)
    def test_only_digits_preprocessing_changes_an_array(self, digit, preprocess):
        dark = 255 - digit
        (found,) = images.from_array(dark, "array", DIGITS, preprocess)
        expected = digits.normalize(dark) if preprocess == "digits" else dark
        np.testing.assert_array_equal(found, expected)

    def test_an_unknown_preprocessing_is_refused(self, digit):
        line = refusal(images.from_array, digit, "array", DIGITS, "digit")
        known = "preprocess must be one of auto, digits, photo, none"
        assert line == f"{known} (got 'digit'; did you mean 'digits'?)"

    @pytest.mark.parametrize("names", [["only"], ["images"], ["other", "images"]])
    def test_an_npz_holds_one_array_or_one_named_images(self, tmp_path, digit, names):
        *others, last = names
        np.savez(tmp_path / "a.npz", **dict.fromkeys(others, digit.T), **{last: digit})
        np.testing.assert_array_equal(read(tmp_path / "a.npz"), digit[np.newaxis])

    @pytest.mark.parametrize(
        ("names", "words"), [(["x", "y"], "(got x, y)"), ([], "(got none)")]
    )
    def test_an_ambiguous_npz_is_refused(self, tmp_path, digit, names, words):
        np.savez(tmp_path / "a.npz", **dict.fromkeys(names, digit))
        line = refusal(read, tmp_path / "a.npz")
        assert "must hold one array, or one named 'images'" in line
        assert words in line

    def test_an_error_in_an_npz_names_the_array(self, tmp_path):
        np.savez(tmp_path / "a.npz", faces=np.zeros(3))
        line = refusal(read, tmp_path / "a.npz")
        assert line.startswith(f"{tmp_path / 'a.npz'}:faces must have shape")


def two_colours(digit):
    """A palette image: the first colour is transparent, the second one is the ink."""
    image = Image.frombytes("P", (28, 28), (digit > 127).tobytes())
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.info["transparency"] = 0
    return image


def on_transparent(digit, ink, background):
    """The background has a colour too, but is fully transparent."""
    grey = Image.fromarray(np.where(digit, ink, background).astype(np.uint8))
    return Image.merge("RGBA", [grey, grey, grey, Image.fromarray(digit)])


KINDS = {
    "RGB": lambda digit: Image.fromarray(digit).convert("RGB"),
    "RGBA": lambda digit: Image.fromarray(digit).convert("RGBA"),
    "16 bits": lambda digit: Image.fromarray(digit.astype(np.uint16) * 257),
    "1 bit": lambda digit: Image.fromarray(digit > 127),
    "palette": lambda digit: Image.fromarray(digit).convert("P"),
    "palette, transparent": two_colours,
    "black on transparent black": lambda digit: on_transparent(digit, 0, 0),
    "black on transparent white": lambda digit: on_transparent(digit, 0, 255),
    "white on transparent white": lambda digit: on_transparent(digit, 255, 255),
    "white on transparent black": lambda digit: on_transparent(digit, 255, 0),
}


class TestImageFiles:
    @pytest.mark.parametrize("name", ["digit.png", "digit.bmp", "digit.npy"])
    @pytest.mark.parametrize("ink", ["light", "dark"])
    def test_28x28_pixels_are_kept_light_on_dark(self, tmp_path, digit, name, ink):
        grey = digit if ink == "light" else 255 - digit
        form = "BMP" if name.endswith("bmp") else "PNG"  # whatever the suffix
        Image.fromarray(grey).save(tmp_path / name, form)
        np.testing.assert_array_equal(read(tmp_path / name), digit[np.newaxis])

    @pytest.mark.parametrize("ink", ["light", "dark"])
    def test_every_image_of_mnist_is_kept(self, sample, ink):
        for image in np.concatenate([sample.train_images, sample.test_images]):
            grey = image if ink == "light" else 255 - image
            content = encoded(Image.fromarray(grey), "BMP")
            np.testing.assert_array_equal(
                images.from_bytes(content, "b", DIGITS)[0], image
            )

    @pytest.mark.parametrize("ink", [0, 255])
    @pytest.mark.parametrize("noise", [0, 20])
    def test_28x28_pixels_on_grey_are_normalised(self, digit, ink, noise):
        grey = 120 + (ink - 120) * (digit / 255)
        grey += np.random.default_rng(1).normal(0, noise, grey.shape)
        grey = np.clip(grey, 0, 255).astype(np.uint8)
        (found,) = images.from_bytes(
            encoded(Image.fromarray(grey), "PNG"), "image", DIGITS
        )
        np.testing.assert_array_equal(found, digits.normalize(grey))

    @pytest.mark.parametrize(("background", "kept"), [(8, True), (9, False)])
    def test_a_plain_background_is_almost_black_or_white(self, digit, background, kept):
        grey = np.maximum(digit, background)
        for image in (grey, 255 - grey):
            content = encoded(Image.fromarray(image), "PNG")
            (found,) = images.from_bytes(content, "image", DIGITS)
            assert np.array_equal(found, grey) == kept

    @pytest.mark.parametrize("brightest", [254, 100])
    def test_a_border_above_the_middle_of_the_grey_levels_is_light(self, brightest):
        middle = brightest // 2
        for border in (middle, middle + 1):
            grey = np.full((28, 28), border, np.uint8)
            grey[1:-1, 1:-1] = 0
            grey[8:20, 12:16] = brightest
            found = images.from_bytes(
                encoded(Image.fromarray(grey), "PNG"), "image", DIGITS
            )
            assert np.array_equal(found[0], grey) == (border == middle)

    @pytest.mark.parametrize("turns", range(4))
    def test_a_stroke_along_an_edge_does_not_change_the_polarity(self, turns):
        stroke = np.zeros((28, 28), np.uint8)
        stroke[:8], stroke[8:, 13:15] = 255, 255
        stroke = np.rot90(stroke, turns)
        content = encoded(Image.fromarray(255 - stroke), "PNG")
        np.testing.assert_array_equal(
            images.from_bytes(content, "image", DIGITS)[0], stroke
        )

    @pytest.mark.parametrize("grey", [0, 100, 255])
    def test_a_blank_image_of_28x28_is_all_0(self, grey):
        content = encoded(Image.new("L", (28, 28), grey), "PNG")
        assert not images.from_bytes(content, "image", DIGITS).any()

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_kind_of_png_is_read(self, tmp_path, digit, kind):
        if kind in ("1 bit", "palette, transparent"):
            digit = np.where(digit > 127, 255, 0).astype(np.uint8)
        KINDS[kind](digit).save(tmp_path / "digit.png")
        np.testing.assert_array_equal(read(tmp_path / "digit.png"), digit[np.newaxis])

    @pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
    def test_greyscale_rgb_and_cmyk_jpegs_are_read(self, tmp_path, digit, mode):
        Image.fromarray(digit).convert(mode).save(tmp_path / "digit.jpg", quality=95)
        difference = read(tmp_path / "digit.jpg")[0].astype(int) - digit
        assert np.abs(difference).max() < 32

    @pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP"])
    @pytest.mark.parametrize("preprocess", ["auto", "digits"])
    def test_other_sizes_are_normalised(self, large, form, preprocess):
        (found,) = images.from_bytes(encoded(large, form), "image", DIGITS, preprocess)
        decoded = np.asarray(Image.open(io.BytesIO(encoded(large, form))))
        np.testing.assert_array_equal(found, digits.normalize(decoded))

    def test_digits_preprocessing_normalises_28x28_pixels_too(self, digit):
        shifted = np.roll(digit, 3)
        content = encoded(Image.fromarray(shifted), "PNG")
        (found,) = images.from_bytes(content, "image", DIGITS, "digits")
        np.testing.assert_array_equal(found, digits.normalize(shifted))

    def test_16_bits_per_pixel_are_normalised_like_8(self, large):
        wide = Image.fromarray(np.asarray(large).astype(np.uint16) * 257)
        (found,) = images.from_bytes(encoded(wide, "PNG"), "image", DIGITS)
        np.testing.assert_array_equal(found, digits.normalize(np.asarray(large)))

    def test_exif_orientation_is_applied(self, large):
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate to the right
        left = large.transpose(Image.Transpose.ROTATE_90)
        (found,) = images.from_bytes(encoded(left, "PNG", exif=exif), "image", DIGITS)
        np.testing.assert_array_equal(found, digits.normalize(np.asarray(large)))

    def test_without_preprocessing_the_polarity_is_kept(self, digit):
        content = encoded(Image.fromarray(255 - digit), "PNG")
        (found,) = images.from_bytes(content, "image", DIGITS, "none")
        np.testing.assert_array_equal(found, 255 - digit)

    def test_without_preprocessing_28x28_pixels_are_required(self, large):
        content = encoded(large.resize((400, 300)), "PNG")
        line = refusal(images.from_bytes, content, "body", DIGITS, "none")
        expected = "body must have 28x28 pixels with preprocess=none (got 400x300)"
        assert line == expected


class TestFiles:
    def test_a_path_and_its_content_are_read_alike(self, tmp_path, large):
        large.save(tmp_path / "page.png")
        found = images.from_bytes((tmp_path / "page.png").read_bytes(), "page", DIGITS)
        np.testing.assert_array_equal(found, read(tmp_path / "page.png"))

    def test_a_minus_is_standard_input(self, monkeypatch, digit):
        content = encoded(Image.fromarray(digit), "PNG")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        np.testing.assert_array_equal(images.read("-", DIGITS), digit[np.newaxis])
        assert refusal(images.read, "-", DIGITS) == "standard input is empty"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
    def test_a_pipe_is_read_like_standard_input(self, tmp_path, digit):
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        content = encoded(Image.fromarray(digit), "PNG")
        writer = threading.Thread(target=pipe.write_bytes, args=[content])
        writer.start()
        try:
            np.testing.assert_array_equal(read(pipe), digit[np.newaxis])
        finally:
            writer.join()

    def test_directories_are_searched_in_alphabetical_order(self, tmp_path):
        for name in ("d.PNG", "c.npy", "a/b.jpeg", "notes.txt", "e.png/f.bmp"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        found = images.find_files(["-", str(tmp_path), "missing.png"])
        names = ("a/b.jpeg", "c.npy", "d.PNG", "e.png/f.bmp")
        inside = [str(tmp_path / name) for name in names]
        assert list(found) == ["-", *inside, "missing.png"]

    def test_a_directory_without_images_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        (tmp_path / ".hidden.png").touch()
        line = refusal(lambda path: list(images.find_files([str(path)])), tmp_path)
        known = ".png, .jpg, .jpeg, .bmp, .webp, .gif"
        assert line == f"{tmp_path} has no {known}, .npy, .npz file"


SHADES = Image.linear_gradient("L")
EXIF = Image.Exif()
EXIF.update({0x0112: 6, 0x010E: "a text, and in odd.jpg a resolution"})
PNG, BMP = encoded(SHADES, "PNG"), encoded(SHADES, "BMP")
JPEG = encoded(SHADES, "JPEG", exif=EXIF)
GIF, WEBP = encoded(SHADES, "GIF"), encoded(SHADES, "WEBP", lossless=True)
KINDS_READ = "must be an npy, npz, PNG, JPEG, BMP, WebP or GIF file"
FAULTS = {
    "cut.gif": (GIF[: len(GIF) // 2], "is damaged: "),
    "cut.webp": (WEBP[: len(WEBP) // 2], "is damaged: "),
    "empty.png": (b"", "is empty"),
    "text.png": (b"no image", KINDS_READ),
    "tiff.png": (encoded(SHADES, "TIFF"), KINDS_READ),
    "svg.png": (b"<svg/>", KINDS_READ),
    "cut.png": (PNG[: len(PNG) // 2], "is damaged: "),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "is damaged: "),
    "cut.bmp": (BMP[: len(BMP) // 2], "is damaged: "),
    "odd.jpg": (JPEG.replace(b"\1\x0e\0\2", b"\1\x1a\0\2"), "is damaged: "),
    "cut.npy": (b"\x93NUMPY\1\0", "is damaged: npy header: "),
    "cut.npz": (b"PK", "is damaged: "),
}


@pytest.mark.fault
class TestFaults:
    @pytest.mark.parametrize("name", FAULTS)
    def test_a_file_that_is_not_an_image_is_refused(self, tmp_path, name):
        content, words = FAULTS[name]
        (tmp_path / name).write_bytes(content)
        line = refusal(images.read, tmp_path / name, DIGITS)
        assert line.startswith(f"{tmp_path / name} {words}")

    @pytest.mark.parametrize(
        ("name", "words"), [("none.png", "does not exist"), ("", "is a directory")]
    )
    def test_a_missing_file_is_refused(self, tmp_path, name, words):
        line = refusal(images.read, tmp_path / name, DIGITS)
        assert line.startswith(f"{tmp_path / name} {words}")

    @pytest.mark.parametrize("side", [8001, 10_000, 20_000, 2**31 - 1])
    def test_an_image_that_is_too_large_is_refused(self, tmp_path, side):
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        path = tmp_path / "large.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + bytes(4))
        line = refusal(images.read, path, DIGITS)
        assert line.startswith(f"{path} must have at most 64,000,000 pixels")

    def test_what_pillow_warns_of_is_not_shown(self):
        # In a process of its own, as pytest shows warnings that Python would not.
        code = """
            from mnist_tf.data import images

            for module in ("PIL.Image", "another"):
                exec("import warnings; warnings.warn('odd')", {"__name__": module})
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr.count("UserWarning: odd") == 1

    @pytest.mark.filterwarnings("ignore")
    @given(damaged(PNG, JPEG, BMP, GIF, WEBP))
    def test_any_bytes_are_an_image_or_refused(self, content):
        with contextlib.suppress(UserError):
            image = images.from_image_file(io.BytesIO(content), "image", DIGITS)
            assert (image.shape, image.dtype) == ((28, 28), np.uint8)


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_images_are_counted_before_they_are_converted(form, monkeypatch):
    monkeypatch.delattr(images.digits, "normalize")
    buffer = io.BytesIO()
    batch = np.full((7, 28, 28), 200, np.uint8)
    np.save(buffer, batch) if form == "npy" else np.savez(buffer, images=batch)

    def check_count(count):
        raise UserError(f"{count} are too many")

    with pytest.raises(UserError, match=r"^7 are too many"):
        images.from_bytes(
            buffer.getvalue(), "the body", DIGITS, "digits", check_count=check_count
        )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_in_every_strip(mode):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (700, 5, 4), np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    if mode == "P":
        image.info["transparency"] = 3
    content = encoded(image, "PNG")
    found = images.from_bytes(content, "it", Preprocessing("photo", 700, 5, "rgb"))
    whole = Image.open(io.BytesIO(content)).convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    expected = Image.alpha_composite(white, whole).convert("RGB")
    np.testing.assert_array_equal(found[0], expected)
