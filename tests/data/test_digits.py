"""Digits are normalised as MNIST's, however they are drawn, lit or photographed."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_tf.data import digits


def page_with(digit):
    """Something like a photograph: the digit, large and dark, off centre on a page."""
    grey = np.full((300, 400), 250, np.uint8)
    grey[10:290, 100:380] -= np.kron(digit, np.ones((10, 10), np.uint8)) // 2
    return Image.fromarray(grey)


def normalize(page):
    return digits.normalize(np.asarray(page))


def similar(image, other, correlation=0.95):
    return np.corrcoef(image.ravel(), other.ravel())[0, 1] > correlation


def extent(image):
    """Height and width of what is not 0."""
    rows, columns = np.nonzero(image)
    return np.ptp(rows) + 1, np.ptp(columns) + 1


@pytest.mark.parametrize("label", range(10))
def test_an_enlarged_mnist_digit_is_restored(sample, label):
    digit = sample.test_images[np.argmax(sample.test_labels == label)]
    assert similar(normalize(page_with(digit)), digit)


@pytest.mark.parametrize("ink", ["light", "dark"])
def test_a_digit_fits_a_box_of_20x20_around_its_centre_of_mass(digit, ink):
    page = page_with(digit)
    if ink == "light":
        page = page.point(lambda grey: 255 - grey)
    image = normalize(page)
    assert (image.shape, image.dtype) == ((28, 28), np.uint8)
    assert max(extent(image)) == 20
    # Within half a pixel of the centre, because digits are moved by whole pixels.
    assert 13.5 <= np.average(np.arange(28), weights=image.sum(axis=0)) <= 14.5
    assert 13.5 <= np.average(np.arange(28), weights=image.sum(axis=1)) <= 14.5
    assert image.max() > 200


@pytest.mark.parametrize("axis", [0, 1])
def test_the_centre_of_mass_of_every_digit_is_centred(sample, axis):
    for digit in sample.test_images[::25]:
        mass = normalize(page_with(digit)).sum(axis=axis)
        assert 13.5 <= np.average(np.arange(28), weights=mass) <= 14.5


@pytest.mark.parametrize("ink", [185, 255])
def test_a_faint_digit_of_28x28_stands_out_from_noise(sample, ink):
    for digit in sample.test_images[::50]:
        noise = np.random.default_rng(1).normal(0, 20, digit.shape)
        grey = 110 + (ink - 110) * (digit / 255) + noise
        found = normalize(np.clip(grey, 0, 255).astype(np.uint8))
        assert similar(found, normalize(digit), correlation=0.7)


def test_noise_of_28x28_is_all_0():
    noise = np.random.default_rng(1).normal(120, 8, (100, 28, 28)).astype(np.uint8)
    assert not np.any([normalize(image) for image in noise])


@pytest.mark.parametrize(
    ("grey", "box"), [(100, (10, 10, 24, 24)), (230, (2, 2, 40, 40))]
)
def test_specks_and_smudges_beside_the_digit_are_removed(digit, grey, box):
    page = page_with(digit)
    page.paste(grey, box)
    assert similar(normalize(page), digit)


def test_a_small_gap_does_not_split_the_digit():
    page = Image.new("L", (256, 256), 255)
    page.paste(0, (100, 50, 110, 200))
    page.paste(0, (113, 50, 123, 60))
    assert extent(normalize(page)) == (20, 3)


def test_a_faint_shadow_across_the_digit_is_removed(digit):
    grey = np.array(page_with(digit))
    grey[10:290, 150:250] = np.minimum(grey[10:290, 150:250], 220)
    assert similar(normalize(grey), digit, correlation=0.99)


def unevenly_lit(digit, kind):
    """A page that gets darker to one side and in the corners, with noise."""
    y, x = np.mgrid[-1:1:300j, -1:1:400j]
    light = (1 + 0.3 * x) * (1 - 0.15 * (x**2 + y**2))
    ink = 255 - np.asarray(page_with(digit)).astype(float)
    noise = np.random.default_rng(1).normal(0, 6, ink.shape)
    grey = light * (180 - ink if kind == "ink on paper" else 40 + ink) + noise
    return np.clip(grey, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["ink on paper", "chalk on a blackboard"])
def test_uneven_lighting_and_noise_are_removed(digit, kind):
    assert similar(normalize(unevenly_lit(digit, kind)), digit)


def test_an_unevenly_lit_blank_page_is_all_0(digit):
    assert not normalize(unevenly_lit(np.zeros_like(digit), "ink on paper")).any()


def test_a_tightly_cropped_digit_keeps_its_polarity(sample):
    zero = sample.test_images[np.argmax(sample.test_labels == 0)]
    large = page_with(zero).resize((1600, 1200))
    rows, columns = np.nonzero(np.asarray(large) < 200)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert similar(normalize(large.crop(box)), zero)


@pytest.mark.parametrize("width", [2, 4, 60, 80])
def test_every_stroke_width_is_brought_into_the_range_of_mnist(width):
    page = Image.new("L", (500, 500), 255)
    ImageDraw.Draw(page).ellipse((100, 50, 400, 450), outline=0, width=width)
    left_half = normalize(page)[14, :14].astype(float)
    assert 0.9 <= left_half.sum() / 255 <= 3.6  # 98% of MNIST


@pytest.mark.parametrize("turns", range(4))
def test_centring_does_not_cut_off_anything(turns):
    grey = np.zeros((300, 300), np.uint8)
    grey[50:250, 50:90] = 255  # most of the mass, and a stroke that leads away from it
    grey[140:160, 50:250] = 255
    assert extent(normalize(np.rot90(grey, turns))) == (20, 20)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (300, 200), (1, 5000), (3000, 2)])
@pytest.mark.parametrize("grey", [0, 100, 255])
def test_a_blank_page_is_all_0(size, grey):
    np.testing.assert_array_equal(
        normalize(Image.new("L", size, grey)), np.zeros((28, 28))
    )


@pytest.mark.parametrize(("contrast", "is_ink"), [(28, False), (36, True)])
def test_ink_has_a_minimum_contrast(contrast, is_ink):
    page = Image.new("L", (60, 60), 200)
    page.paste(200 - contrast, (20, 20, 40, 40))
    assert normalize(page).any() == is_ink


def test_specks_are_not_ink():
    page = Image.new("L", (1000, 1000), 255)
    for corner in ((10, 10), (990, 990)):
        page.putpixel(corner, 0)
    assert not normalize(page).any()


@pytest.mark.parametrize("size", [(8, 900), (900, 8)])
def test_a_single_stroke_keeps_its_aspect_ratio(size):
    page = Image.new("L", (1000, 1000), 255)
    page.paste(0, (50, 50, 50 + size[0], 50 + size[1]))
    assert sorted(extent(normalize(page))) == [1, 20]
