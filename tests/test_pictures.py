"""Pictures become digits as MNIST has them, or are refused."""

import contextlib
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from PIL import Image, ImageDraw

from mnist_tf import images
from mnist_tf.errors import UserError
from tests.conftest import damaged, encoded, refusal


def page_with(digit):
    """A photograph of a sort: the digit, large and dark, to one side of a page."""
    grey = np.full((300, 400), 250, np.uint8)
    grey[10:290, 100:380] -= np.kron(digit, np.ones((10, 10), np.uint8)) // 2
    return Image.fromarray(grey)


def read(path):
    return images.read(str(path))


def alike(image, other):
    return np.corrcoef(image.ravel(), other.ravel())[0, 1] > 0.95


def png_header(width, height):
    """A PNG that claims a size and has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + bytes(4)


@pytest.mark.parametrize("name", ["digit.png", "digit.bmp", "digit.npy"])
@pytest.mark.parametrize("ink", ["light", "dark"])
def test_a_picture_of_28x28_keeps_its_pixels_light_on_dark(tmp_path, digit, name, ink):
    grey = digit if ink == "light" else 255 - digit
    form = "BMP" if name.endswith("bmp") else "PNG"  # the suffix does not matter
    Image.fromarray(grey).save(tmp_path / name, form)
    np.testing.assert_array_equal(read(tmp_path / name), digit[np.newaxis])


def two_colours(digit):
    """A palette's second colour is the ink, its first one is transparent."""
    picture = Image.frombytes("P", (28, 28), (digit > 127).tobytes())
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.info["transparency"] = 0
    return picture


def on_transparent(digit, ink, paper):
    """Where there is no ink, there is a colour too, which nobody can see."""
    grey = Image.fromarray(np.where(digit, ink, paper).astype(np.uint8))
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_png_shows_its_ink(tmp_path, digit, kind):
    if kind in ("1 bit", "palette, transparent"):
        digit = np.where(digit > 127, 255, 0).astype(np.uint8)
    KINDS[kind](digit).save(tmp_path / "digit.png")
    np.testing.assert_array_equal(read(tmp_path / "digit.png"), digit[np.newaxis])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_are_read_in_grey_colour_and_print(tmp_path, digit, mode):
    Image.fromarray(digit).convert(mode).save(tmp_path / "digit.jpg", quality=95)
    difference = read(tmp_path / "digit.jpg")[0].astype(int) - digit
    assert np.abs(difference).max() < 32


@pytest.mark.parametrize("label", range(10))
def test_a_digit_of_mnist_enlarged_comes_back_as_it_was(tmp_path, sample, label):
    digit = sample.test_images[np.argmax(sample.test_labels == label)]
    page_with(digit).save(tmp_path / "page.png")
    assert alike(read(tmp_path / "page.png"), digit)


@pytest.mark.parametrize("name", ["page.png", "page.jpg", "page.bmp"])
@pytest.mark.parametrize("ink", ["light", "dark"])
def test_ink_fills_a_box_of_20x20_around_its_centre(tmp_path, digit, name, ink):
    page = page_with(digit)
    if ink == "light":
        page = page.point(lambda grey: 255 - grey)
    page.save(tmp_path / name)
    image = read(tmp_path / name)[0].astype(float)
    rows, columns = np.nonzero(image)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20
    # Half of 28, to which MNIST's digits are rounded too.
    assert 13.5 <= np.average(np.arange(28), weights=image.sum(axis=0)) <= 14.5
    assert 13.5 <= np.average(np.arange(28), weights=image.sum(axis=1)) <= 14.5
    assert image.max() > 200


def test_a_smudge_is_no_part_of_the_digit(tmp_path, digit):
    page = page_with(digit)
    page.paste(230, (2, 2, 40, 40))
    page.save(tmp_path / "page.png")
    assert alike(read(tmp_path / "page.png"), digit)


def on_lit_paper(digit, lit):
    """Paper that gets darker to one side and in the corners, with a grain."""
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    light = (1 + 0.3 * x) * (1 - 0.15 * (x**2 + y**2))
    ink = 255 - np.asarray(page_with(digit)).astype(float)
    grain = np.random.default_rng(1).normal(0, 6, ink.shape)
    grey = light * (180 - ink if lit == "ink on paper" else 40 + ink) + grain
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("lit", ["ink on paper", "chalk on a board"])
def test_uneven_light_and_grain_are_no_ink(tmp_path, digit, lit):
    on_lit_paper(digit, lit).save(tmp_path / "page.png")
    assert alike(read(tmp_path / "page.png"), digit)


def test_uneven_light_alone_is_an_empty_page(tmp_path, digit):
    on_lit_paper(np.zeros_like(digit), "ink on paper").save(tmp_path / "page.png")
    assert not read(tmp_path / "page.png").any()


def test_a_digit_cut_out_tightly_keeps_its_polarity(tmp_path, sample):
    zero = sample.test_images[np.argmax(sample.test_labels == 0)]
    large = page_with(zero).resize((1600, 1200))
    rows, columns = np.nonzero(np.asarray(large) < 200)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    large.crop(box).save(tmp_path / "page.png")
    assert alike(read(tmp_path / "page.png"), zero)


@pytest.mark.parametrize("pen", [2, 4, 60, 80])
def test_every_pen_becomes_about_as_wide_as_mnists(tmp_path, pen):
    page = Image.new("L", (500, 500), 255)
    ImageDraw.Draw(page).ellipse((100, 50, 400, 450), outline=0, width=pen)
    page.save(tmp_path / "page.png")
    across = read(tmp_path / "page.png")[0][14].astype(float)
    assert 0.9 <= across[:14].sum() / 255 <= 3.6  # as 98 % of MNIST


@pytest.mark.parametrize("preprocess", images.PREPROCESS)
def test_an_array_passes_unchanged_unless_asked_for(digit, preprocess):
    dark = 255 - digit
    (found,) = images.from_array(dark, "array", preprocess)
    if preprocess == "mnist":
        assert alike(found, digit)
    else:
        np.testing.assert_array_equal(found, dark)


def test_without_preprocessing_a_picture_keeps_its_polarity(digit):
    content = encoded(Image.fromarray(255 - digit), "PNG")
    (found,) = images.from_bytes(content, "picture", "none")
    np.testing.assert_array_equal(found, 255 - digit)


def test_without_preprocessing_a_picture_has_28x28_pixels(tmp_path, digit):
    page_with(digit).save(tmp_path / "page.png")
    content = (tmp_path / "page.png").read_bytes()
    line = refusal(images.from_bytes, content, "picture", "none")
    assert line.startswith("picture: got 400x300 pixels; give 28x28")


def test_a_file_and_its_content_are_read_alike(tmp_path, digit):
    page_with(digit).save(tmp_path / "page.png")
    content = (tmp_path / "page.png").read_bytes()
    found = images.from_bytes(content, "picture")
    np.testing.assert_array_equal(found, read(tmp_path / "page.png"))


def test_an_unknown_preprocessing_is_refused(digit):
    line = refusal(images.from_array, digit, "array", "mnits")
    assert "(did you mean 'mnist'?)" in line


@pytest.mark.parametrize("turns", range(4))
def test_centring_cuts_nothing_off(tmp_path, turns):
    grey = np.zeros((300, 300), np.uint8)
    grey[50:250, 50:90] = 255  # most of the ink, and a stroke away from it
    grey[140:160, 50:250] = 255
    Image.fromarray(np.rot90(grey, turns)).save(tmp_path / "page.png")
    rows, columns = np.nonzero(read(tmp_path / "page.png")[0])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 20)


def test_a_page_of_16_bits_is_cut_scaled_and_centred(tmp_path, digit):
    wide = np.asarray(page_with(digit)).astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "page.png")
    assert alike(read(tmp_path / "page.png"), digit)


def test_a_photograph_is_turned_as_the_camera_says(tmp_path, digit):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    lying = page_with(digit).transpose(Image.Transpose.ROTATE_90)  # to the left
    lying.save(tmp_path / "page.jpg", exif=exif)
    assert alike(read(tmp_path / "page.jpg"), digit)


@pytest.mark.parametrize(
    "size", [(28, 28), (1, 1), (3, 3), (300, 200), (1, 5000), (3000, 2)]
)
@pytest.mark.parametrize("grey", [0, 100, 255])
def test_an_empty_page_is_all_0(tmp_path, size, grey):
    Image.new("L", size, grey).save(tmp_path / "page.png")
    np.testing.assert_array_equal(read(tmp_path / "page.png"), np.zeros((1, 28, 28)))


@pytest.mark.parametrize(("contrast", "seen"), [(28, False), (36, True)])
def test_a_shade_of_the_paper_is_no_ink(tmp_path, contrast, seen):
    page = Image.new("L", (60, 60), 200)
    page.paste(200 - contrast, (20, 20, 40, 40))
    page.save(tmp_path / "page.png")
    assert read(tmp_path / "page.png").any() == seen


def test_specks_too_small_to_scale_are_no_ink(tmp_path):
    page = Image.new("L", (1000, 1000), 255)
    for corner in ((10, 10), (990, 990)):
        page.putpixel(corner, 0)
    page.save(tmp_path / "page.png")
    assert not read(tmp_path / "page.png").any()


@pytest.mark.parametrize("size", [(8, 900), (900, 8)])
def test_a_stroke_keeps_its_shape(tmp_path, size):
    page = Image.new("L", (1000, 1000), 255)
    page.paste(0, (50, 50, 50 + size[0], 50 + size[1]))
    page.save(tmp_path / "page.png")
    rows, columns = np.nonzero(read(tmp_path / "page.png")[0])
    assert sorted([np.ptp(rows) + 1, np.ptp(columns) + 1]) == [1, 20]


@pytest.mark.fault
@pytest.mark.parametrize("side", [8001, 10_000, 20_000, 2**31 - 1])
def test_a_picture_too_large_to_decode_is_refused(tmp_path, side):
    path = tmp_path / "large.png"
    path.write_bytes(png_header(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # would be a second line on the terminal
        line = refusal(images.read, path)
    assert line.startswith(str(path))
    assert "pixels; the most is 64,000,000 in all" in line


SHADES = Image.linear_gradient("L")
EXIF = Image.Exif()
EXIF.update({0x0112: 6, 0x010E: "a text, and in odd.jpg a resolution"})
PNG, BMP = encoded(SHADES, "PNG"), encoded(SHADES, "BMP")
JPEG = encoded(SHADES, "JPEG", exif=EXIF)
FAULTS = {
    "empty.png": (b"", "is empty"),
    "text.png": (b"no picture", "not a npy, npz, PNG, JPEG or BMP file"),
    "gif.png": (encoded(SHADES, "GIF"), "not a npy, npz, PNG, JPEG or BMP file"),
    "svg.png": (b"<svg/>", "not a npy, npz, PNG, JPEG or BMP file"),
    "cut.png": (PNG[: len(PNG) // 2], "damaged picture"),
    "cut.jpg": (JPEG[: len(JPEG) // 2], "damaged picture"),
    "cut.bmp": (BMP[: len(BMP) // 2], "damaged picture"),
    "odd.jpg": (JPEG.replace(b"\1\x0e\0\2", b"\1\x1a\0\2"), "damaged picture"),
    "cut.npy": (b"\x93NUMPY\1\0", "damaged npy header"),
    "cut.npz": (b"PK", "damaged npz"),
}


@pytest.mark.fault
@pytest.mark.parametrize("name", FAULTS)
def test_a_file_that_is_no_image_is_refused(tmp_path, name):
    content, words = FAULTS[name]
    (tmp_path / name).write_bytes(content)
    line = refusal(images.read, tmp_path / name)
    assert line.startswith(str(tmp_path / name))
    assert words in line


@pytest.mark.fault
@pytest.mark.parametrize("name", ["none.png", ""])
def test_what_is_no_file_is_refused(tmp_path, name):
    line = refusal(images.read, tmp_path / name)
    assert line.startswith(f"{tmp_path / name}: ")


@pytest.mark.fault
@given(damaged(PNG, JPEG, BMP))
def test_any_picture_gives_28x28_or_is_refused(content):
    with contextlib.suppress(UserError), warnings.catch_warnings(action="ignore"):
        image = images.from_picture(io.BytesIO(content), "picture")
        assert (image.shape, image.dtype) == ((28, 28), np.uint8)
