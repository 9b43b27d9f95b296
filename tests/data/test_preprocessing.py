"""Pictures of any kind become the input, the same from files, bytes and arrays."""

import io

import numpy as np
import pytest
from PIL import Image

from mnist_tf.data import Preprocessing, images
from mnist_tf.data.preprocessing import RESIZES
from tests.conftest import encoded, refusal

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
RGB = Preprocessing("photo", 6, 8, "rgb")
GREY = Preprocessing("photo", 6, 8, "grayscale")


@pytest.mark.parametrize("form", ["PNG", "BMP", "WEBP"])
@pytest.mark.parametrize("preprocessing", [RGB, GREY])
def test_files_bytes_and_arrays_of_the_size_are_equal(tmp_path, form, preprocessing):
    content = encoded(Image.fromarray(PIXELS), form, lossless=True)
    (tmp_path / "picture").write_bytes(content)
    expected = images.from_array(PIXELS, "array", preprocessing)
    assert expected.shape == (1, *preprocessing.image_shape)
    for found in (
        images.read(str(tmp_path / "picture"), preprocessing),
        images.from_bytes(content, "picture", preprocessing),
    ):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (8, 6), (300, 20)])
@pytest.mark.parametrize("resize", RESIZES)
def test_every_kind_and_size_becomes_the_input(mode, size, resize):
    wide = np.full(size[::-1], 25700, np.uint16)
    grey = Image.new("L", size, 100)
    image = Image.fromarray(wide) if mode == "I;16" else grey.convert(mode)
    for color in ("rgb", "grayscale"):
        wanted = Preprocessing("photo", 6, 8, color, resize)
        (found,) = images.from_bytes(encoded(image, "PNG"), "picture", wanted)
        assert (found.shape, found.dtype) == (wanted.image_shape, np.uint8)
        if mode != "1" and resize != "pad":
            assert np.unique(found).tolist() == [100]


def test_crop_pad_and_stretch():
    image = np.zeros((4, 8), np.uint8)
    image[:, :2], image[:, 2:6], image[:, 6:] = 50, 100, 150
    found = {
        each: images.from_array(
            image, "a", Preprocessing("photo", 4, 4, "grayscale", each)
        )[0]
        for each in RESIZES
    }
    assert np.unique(found["crop"]).tolist() == [100]
    assert not found["pad"][0].any()
    assert not found["pad"][3].any()
    assert found["pad"][1:3].all()
    assert found["stretch"].all()
    assert found["stretch"][0, 0] < 60 < 140 < found["stretch"][0, 3]


def test_transparent_becomes_white_and_exif_turns():
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    assert (images.from_bytes(encoded(clear, "PNG"), "p", RGB) == 255).all()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(PIXELS).transpose(Image.Transpose.ROTATE_90)
    (found,) = images.from_bytes(encoded(turned, "PNG", exif=exif), "p", RGB)
    np.testing.assert_array_equal(found, PIXELS)


def test_the_first_frame_of_a_gif_counts():
    frames = [Image.new("L", (8, 6), grey) for grey in (40, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.unique(images.from_bytes(content, "gif", GREY)).tolist() == [40]


@pytest.mark.fault
def test_a_huge_png_of_one_colour_is_refused():
    content = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(content, "PNG")
    line = refusal(images.from_bytes, content.getvalue(), "huge.png", RGB)
    assert line.startswith("huge.png must have at most 64,000,000 pixels")


@pytest.mark.fault
@pytest.mark.parametrize("settings", [{"height": 64, "width": 64}, {"color": "rgb"}])
def test_digits_are_28x28_and_greyscale(settings):
    line = refusal(
        lambda: Preprocessing("digits", **settings).decided((9, 9), False, True)
    )
    assert "use --preprocess=photo" in line


def test_what_is_open_is_decided_by_the_data():
    decided = Preprocessing().decided
    assert decided((9, 7), True, False) == Preprocessing("photo", 9, 7, "rgb")
    digits = Preprocessing("digits", 28, 28, "grayscale")
    assert decided((9, 7), True, True) == digits
