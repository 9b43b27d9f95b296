"""The page works in a real browser against a real server.

The model of digits has a page to draw on; one of photos has a page for pictures.
"""

import base64
import io
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from mnist_tf.cli import predict
from tests.conftest import ROOT, encoded

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    pytest.skip(
        "THE PAGE IS NOT TESTED: playwright is missing; pip install -e '.[dev]'",
        allow_module_level=True,
    )

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip(
        "THE PAGE IS NOT TESTED: chromium is missing; apt-get install chromium",
        allow_module_level=True,
    )

# Tests must not fail on a busy machine.
expect.set_options(timeout=20_000)

# Strokes as lists of corners, in fractions of the drawing area.
SEVEN = [[(0.28, 0.25), (0.72, 0.25), (0.44, 0.80)]]
ONE = [[(0.53, 0.20), (0.48, 0.80)]]
BAR = [[(0.35, 0.52), (0.68, 0.52)]]


def arc(x, y, width, height, start, end):
    """Corners along an ellipse; angles are clockwise degrees from three o'clock."""
    angles = [math.radians(start + (end - start) * step / 24) for step in range(25)]
    return [(x + width * math.cos(a), y + height * math.sin(a)) for a in angles]


ZERO = [arc(0.5, 0.5, 0.19, 0.28, -90, 270)]
THREE = [arc(0.46, 0.36, 0.17, 0.14, -150, 90) + arc(0.46, 0.65, 0.19, 0.15, -90, 150)]


class Server:
    """A server process that can be stopped and restarted on the same port."""

    def __init__(self, model_dir, log, *flags):
        self.flags = [f"--model_dir={model_dir}", *flags]
        self.log = log  # a file: a full pipe would block the server
        self.port = 0
        self.start()

    def start(self):
        command = [sys.executable, str(ROOT / "serve.py")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *self.flags, f"--port={self.port}"],
                cwd=ROOT,
                stderr=log,
            )
        pattern = re.compile(r"serving (http://127\.0\.0\.1:(\d+)/)")
        deadline = time.monotonic() + 120
        while not (found := pattern.search(self.log.read_text())):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        self.url, self.port = found[1], int(found[2])

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def model_dir(trained):
    return trained[1] / "out"


@pytest.fixture(scope="module")
def server(model_dir, tmp_path_factory):
    """The address of the page."""
    running = Server(model_dir, tmp_path_factory.mktemp("server") / "log")
    yield running.url
    running.stop()


@pytest.fixture
def another(model_dir, tmp_path):
    """A server of its own for a test that stops it."""
    running = Server(model_dir, tmp_path / "log")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        # Root in a container cannot use the sandbox.
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--use-fake-device-for-media-stream"],
        )
        yield browser
        browser.close()


@pytest.fixture
def faults():
    """Errors in the browser; a test removes those that it provokes."""
    return []


@pytest.fixture
def opened(browser, server, faults):
    """Opens the page with options of the browser and collects errors."""
    contexts = []

    def collect(message):
        if "willReadFrequently" not in message.text:  # caused by the tests
            faults.append(f"{message.type}: {message.text}")

    def open_page(url=server, labels=10, permissions=(), script="", **options):
        # The browser refuses all others.
        permissions = ["clipboard-read", "clipboard-write", *permissions]
        context = browser.new_context(permissions=permissions, **options)
        context.add_init_script(script)
        contexts.append(context)
        page = context.new_page()
        page.on("console", collect)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((url, "data:", "blob:"))
                or faults.append(f"a request to {request.url}")
            ),
        )
        page.goto(url)
        expect(page.locator("#bars li")).to_have_count(labels)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(opened):
    return opened(viewport={"width": 1100, "height": 900})


def draw(page, strokes, lift=True):
    box = page.locator("#canvas").bounding_box()
    for stroke in strokes:
        corners = [
            (box["x"] + x * box["width"], box["y"] + y * box["height"])
            for x, y in stroke
        ]
        page.mouse.move(*corners[0])
        page.mouse.down()
        for x, y in corners[1:]:
            page.mouse.move(x, y, steps=4)
        if lift:
            page.mouse.up()


def ink(page, canvas="#canvas"):
    """The number of pixels of a canvas that differ from its first one."""
    return page.locator(canvas).evaluate(
        """canvas => {
            const box = [0, 0, canvas.width, canvas.height];
            const data = canvas.getContext("2d").getImageData(...box).data;
            const pixels = new Uint32Array(data.buffer);
            return pixels.filter(pixel => pixel !== pixels[0]).length;
        }"""
    )


def expect_label(page, label):
    expect(page.locator("#glyph")).to_have_text(label)


def expect_empty(page):
    expect_label(page, "")
    expect(page.get_by_role("status")).to_contain_text("Nothing drawn yet.")
    assert ink(page) == 0
    assert ink(page, "#seen") == 0


def recent(page):
    return page.locator("#latest .label").all_text_contents()


def sample(path="samples/3.png", size=300):
    """A sample image, enlarged, as a PNG file."""
    buffer = io.BytesIO()
    Image.open(ROOT / path).convert("L").resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


def drop(page, content, name="image.png", kind="image/png"):
    transfer = page.evaluate_handle(
        """([content, name, type]) => {
            const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type }));
            return transfer;
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("body", event, {"dataTransfer": transfer})


def paste(page, content):
    """Copies a PNG file to the clipboard and pastes it."""
    page.evaluate(
        """async content => {
            const bytes = Uint8Array.from(atob(content), one => one.charCodeAt(0));
            const blob = new Blob([bytes], { type: "image/png" });
            const item = new ClipboardItem({ [blob.type]: blob });
            await navigator.clipboard.write([item]);
        }""",
        base64.b64encode(content).decode(),
    )
    page.keyboard.press("Control+v")


def prediction(label, *top, reason=""):
    """A response of /predict."""
    one = {
        "label": label,
        "probability": top[0][1] if label else None,
        "top": [{"label": name, "probability": share} for name, share in top],
        "rejected": label is None,
        "reason": reason,
        "pixels": base64.b64encode(bytes(range(196)) * 4).decode(),
    }
    return {
        "model": "mnist",
        "version": "1",
        "predictions": [one],
        "image_shape": [28, 28],
    }


class TestDrawing:
    @pytest.mark.parametrize(
        ("strokes", "label"), [(SEVEN, "7"), (ONE, "1"), (ZERO, "0"), (THREE, "3")]
    )
    def test_a_digit_is_recognised(self, page, strokes, label):
        draw(page, strokes)
        expect_label(page, label)
        expect(page.get_by_role("status")).to_contain_text("% sure")

    def test_it_is_recognised_during_the_stroke(self, page):
        draw(page, SEVEN, lift=False)
        expect_label(page, "7")
        page.mouse.up()

    def test_the_bars_show_every_label(self, page):
        draw(page, SEVEN)
        expect_label(page, "7")
        names = page.locator("#bars .label").all_text_contents()
        assert names == list("0123456789")
        shares = page.locator("#bars .share").all_text_contents()
        numbers = [int(share.removesuffix("%")) for share in shares]
        assert 95 <= sum(numbers) <= 105
        assert numbers.index(max(numbers)) == 7
        best = page.locator("#bars .best")
        expect(best.locator(".label")).to_have_text("7")
        width = best.evaluate("row => row.style.getPropertyValue('--share')")
        assert float(width) == pytest.approx(numbers[7] / 100, abs=0.01)

    def test_the_input_of_the_network_is_shown(self, page):
        assert ink(page, "#seen") == 0
        draw(page, SEVEN)
        expect_label(page, "7")
        seen = page.locator("#seen")
        assert seen.evaluate("canvas => [canvas.width, canvas.height]") == [28, 28]
        assert 40 < ink(page, "#seen") < 300

    def test_a_tap_leaves_a_dot(self, page):
        page.locator("#canvas").click()
        assert ink(page) > 100

    def test_the_brush_size_can_be_set(self, page):
        found = []
        for size in ("2", "14"):
            page.get_by_label("Brush").fill(size)
            draw(page, ONE)
            found.append(ink(page))
            page.keyboard.press("Escape")
        assert found[1] > 4 * found[0]

    def test_requests_are_sent_one_at_a_time(self, page):
        pending, counts = set(), []
        page.on(
            "request",
            lambda request: (pending.add(request), counts.append(len(pending))),
        )
        page.on("requestfinished", lambda request: pending.discard(request))
        draw(page, ZERO + SEVEN)
        page.wait_for_timeout(500)
        assert len(counts) > 1
        assert max(counts) == 1

    def test_pen_pressure_sets_the_line_width(self, page):
        pen = page.context.new_cdp_session(page)
        box = page.locator("#canvas").bounding_box()
        found = []
        for force in (0.1, 0.9):
            for kind, step in (
                ("Pressed", 0),
                ("Moved", 1),
                ("Moved", 2),
                ("Released", 2),
            ):
                pen.send(
                    "Input.dispatchMouseEvent",
                    {
                        "type": f"mouse{kind}",
                        "x": box["x"] + 100 + 60 * step,
                        "y": box["y"] + 200,
                        "button": "left",
                        "buttons": 1,
                        "clickCount": 1,
                        "pointerType": "pen",
                        "force": force,
                    },
                )
            found.append(ink(page))
            page.keyboard.press("Escape")
        assert found[1] > 1.5 * found[0]

    def test_a_finger_draws_instead_of_scrolling(self, opened):
        page = opened(has_touch=True, viewport={"width": 360, "height": 400})
        finger = page.context.new_cdp_session(page)
        box = page.locator("#canvas").bounding_box()
        corners = SEVEN[0]
        points = [
            (x + (to_x - x) * step / 8, y + (to_y - y) * step / 8)
            for (x, y), (to_x, to_y) in itertools.pairwise(corners)
            for step in range(9)
        ]
        for index, (x, y) in enumerate(points):
            at = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
            kind = "touchMove" if index else "touchStart"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        expect_label(page, "7")
        assert page.evaluate("scrollY") == 0


class TestUndoAndClear:
    @pytest.mark.parametrize("key", ["Escape", "Delete", None])
    def test_clear(self, page, key):
        draw(page, SEVEN)
        expect_label(page, "7")
        if key:
            page.keyboard.press(key)
        else:
            page.get_by_role("button", name="Clear").click()
        expect_empty(page)

    def test_a_late_prediction_of_a_cleared_drawing_is_ignored(self, page):
        held = []
        page.route("**/predict?*", lambda route: held.append(route))
        with page.expect_request("**/predict?*"):
            page.locator("#canvas").click()
        page.wait_for_timeout(300)
        page.keyboard.press("Escape")
        with page.expect_response("**/predict?*"):
            held[0].continue_()
        page.wait_for_timeout(300)
        expect_empty(page)
        assert recent(page) == []

    @pytest.mark.parametrize("key", ["Control+z", None])
    def test_undo_removes_the_last_stroke(self, page, key):
        draw(page, ONE)
        before = ink(page)
        draw(page, BAR)
        assert ink(page) > before
        for left in (before, 0):
            if key:
                page.keyboard.press(key)
            else:
                page.get_by_role("button", name="Undo").click()
            assert ink(page) == left
        expect_empty(page)

    def test_undo_restores_a_cleared_drawing(self, page):
        draw(page, SEVEN)
        before = ink(page)
        page.keyboard.press("Escape")
        page.keyboard.press("Control+z")
        assert ink(page) == before
        expect_label(page, "7")


class TestImages:
    def test_paste(self, page):
        paste(page, sample())
        expect_label(page, "3")

    def test_drop(self, page):
        drop(page, sample())
        expect_label(page, "3")
        expect(page.locator("body")).not_to_have_class("dropping")

    @pytest.mark.parametrize("path", ["samples/3.png", "samples/8.png"])
    def test_choose(self, page, path):
        page.get_by_role("button", name="Image").set_input_files(ROOT / path)
        expect_label(page, Path(path).stem)

    @pytest.mark.parametrize("then", ["another", "cleared"])
    def test_a_picture_that_is_decoded_late_comes_too_late(self, page, then):
        page.evaluate(
            """() => {
              const decode = createImageBitmap;
              const held = new Promise((resolve) => { window.release = resolve; });
              let first = true;
              window.createImageBitmap = async (file) => {
                if (first) { first = false; await held; }
                return decode(file);
              };
            }"""
        )
        button = page.get_by_role("button", name="Image")
        button.set_input_files(ROOT / "samples/8.png")
        if then == "another":
            button.set_input_files(ROOT / "samples/3.png")
            expect_label(page, "3")
        else:
            page.get_by_role("button", name="Clear").click(force=True)
        page.evaluate("release()")
        page.wait_for_timeout(500)
        if then == "another":
            expect_label(page, "3")
        else:
            expect(page.locator("body")).to_contain_text("Nothing drawn yet.")

    @pytest.mark.parametrize("form", ["jpeg", "bmp", "gif", "webp"])
    def test_every_format_is_sent_as_png(self, page, form):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(sample(size=1500))).save(buffer, form)
        with page.expect_request("**/predict?*") as sent:
            drop(page, buffer.getvalue(), f"three.{form}", f"image/{form}")
        assert sent.value.header_value("content-type") == "image/png"
        expect_label(page, "3")

    def test_a_stroke_replaces_an_image_and_undo_restores_it(self, page):
        drop(page, sample())
        expect_label(page, "3")
        draw(page, SEVEN)
        expect_label(page, "7")
        page.keyboard.press("Control+z")
        expect_label(page, "3")
        assert recent(page) == ["7", "3"]

    def test_a_blank_image_has_no_label(self, page):
        buffer = io.BytesIO()
        Image.new("L", (100, 100), 255).save(buffer, "PNG")
        drop(page, buffer.getvalue())
        expect(page.get_by_role("status")).to_contain_text("Nothing to recognise.")
        expect(page.get_by_role("status")).to_contain_text("blank")
        assert recent(page) == []

    def test_a_file_that_is_not_an_image_is_rejected(self, page):
        drop(page, b"Once upon a time", "tale.txt", "text/plain")
        expect(page.get_by_role("alert")).to_have_text(
            "tale.txt is not an image that this browser can read."
        )
        draw(page, SEVEN)
        expect_label(page, "7")
        expect(page.get_by_role("alert")).to_be_hidden()


class TestRecent:
    def test_each_drawing_has_one_entry(self, page):
        draw(page, ONE)
        expect_label(page, "1")
        page.keyboard.press("Escape")
        draw(page, SEVEN)
        expect_label(page, "7")
        draw(page, BAR)
        page.wait_for_timeout(500)
        found = recent(page)
        assert len(found) == 2
        assert found[1] == "1"
        share = page.locator("#latest .share").last
        expect(share).to_have_text(re.compile(r"^\d+%$"))
        assert ink(page, "#latest li:last-child canvas") > 20

    def test_the_list_keeps_ten_entries(self, page):
        for index in range(12):
            drop(page, sample("samples/8.png" if index else "samples/3.png"))
            expect(page.locator("#latest li")).to_have_count(min(index + 1, 10))
        expect(page.locator("#latest")).not_to_contain_text("3")
        assert recent(page) == ["8"] * 10

    def test_a_reload_empties_the_list(self, page):
        draw(page, SEVEN)
        expect_label(page, "7")
        page.reload()
        assert recent(page) == []


class TestErrors:
    def test_the_page_retries_until_the_server_is_back(self, opened, another, faults):
        page = opened()
        page.goto(another.url)
        expect(page.locator("#bars li")).to_have_count(10)
        another.stop()
        draw(page, SEVEN)
        expect(page.get_by_role("alert")).to_contain_text(
            "The server cannot be reached."
        )
        expect_label(page, "")
        another.start()
        expect_label(page, "7")
        expect(page.get_by_role("alert")).to_be_hidden()
        provoked = (f"a request to {another.url}", "error: Failed to load resource")
        faults[:] = [fault for fault in faults if not fault.startswith(provoked)]

    def test_an_error_is_shown_until_the_next_prediction(self, page, faults):
        error = {"error": "the body exceeds 100 bytes; send less per request"}
        page.route("**/predict?*", lambda route: route.fulfill(status=413, json=error))
        draw(page, ONE)
        expect(page.get_by_role("alert")).to_contain_text(error["error"])
        page.unroute("**/predict?*")
        draw(page, ONE)
        expect_label(page, "1")
        expect(page.get_by_role("alert")).to_be_hidden()
        assert all("status of 413" in fault for fault in faults)
        faults.clear()

    def test_the_page_retries_after_retry_after(self, page, faults):
        busy = {
            "status": 503,
            "headers": {"Retry-After": "1"},
            "json": {"error": "the queue is full (4 requests); retry later"},
        }
        page.route("**/predict?*", lambda route: route.fulfill(**busy))
        draw(page, ONE)
        expect(page.get_by_role("alert")).to_contain_text("the queue is full")
        page.wait_for_timeout(500)  # until the requests of the stroke are over
        page.unroute("**/predict?*")
        expect_label(page, "1")
        expect(page.get_by_role("alert")).to_be_hidden()
        assert all("status of 503" in fault for fault in faults)
        faults.clear()

    def test_an_uncertain_prediction_is_a_question(self, page):
        unsure = prediction(None, ("3", 0.43), ("5", 0.4), reason="only 0.43 sure of 3")
        page.route("**/predict?*", lambda route: route.fulfill(json=unsure))
        draw(page, SEVEN)
        expect_label(page, "?")
        expect(page.get_by_role("status")).to_contain_text("Not sure: 3 or 5?")
        expect(page.get_by_role("status")).to_contain_text("only 0.43 sure of 3")
        assert recent(page) == ["?"]

    def test_an_unfamiliar_image_is_a_question(self, page):
        reason = "not like the training images"
        strange = prediction(None, ("3", 0.99), ("5", 0.01), reason=reason)
        page.route("**/predict?*", lambda route: route.fulfill(json=strange))
        draw(page, SEVEN)
        expect_label(page, "?")
        expect(page.get_by_role("status")).to_contain_text("Unfamiliar: 3?")
        expect(page.get_by_role("status")).to_contain_text(reason)

    def test_labels_may_be_words(self, page):
        boot = prediction("Ankle boot", ("Ankle boot", 0.9), ("T-shirt/top", 0.1))
        page.route("**/predict?*", lambda route: route.fulfill(json=boot))
        draw(page, SEVEN)
        expect_label(page, "Ankle boot")
        names = page.locator("#bars .label").all_text_contents()
        assert names == ["Ankle boot", "T-shirt/top"]

    def test_the_page_asks_for_the_token_and_sends_it(self, page, faults):
        def guard(route):
            if route.request.headers.get("authorization") == "Bearer open-sesame":
                route.continue_()
            else:
                route.fulfill(status=401, json={"error": "missing or invalid token"})

        page.route("**/predict?*", guard)
        page.route("**/metadata", guard)
        page.reload()
        expect(page.get_by_role("alert")).to_have_text("The server requires a token.")
        draw(page, SEVEN)
        field = page.get_by_label("Token")
        expect(field).to_be_focused()
        field.press_sequentially("wrong")
        field.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("This token is not valid.")
        field.fill("open-sesame")
        page.get_by_role("button", name="Use token").click()
        expect_label(page, "7")
        expect(field).to_be_hidden()
        expect(page.locator("#bars li")).to_have_count(10)
        assert all("status of 401" in fault for fault in faults)
        faults.clear()


class TestAccessibility:
    def test_the_content_security_policy_allows_nothing_unsafe(self, page, server):
        policy = page.request.get(server).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        icon = page.request.get(f"{server}web/icon.svg")
        assert icon.headers["content-type"].startswith("image/svg+xml")

    def test_the_keyboard_reaches_everything(self, page):
        # Early: the browser takes a while to start intercepting file choosers.
        page.on("filechooser", lambda chooser: None)
        reached = []
        for _ in range(4):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            reached.append(focused.get_attribute("id"))
            shown = focused.locator("xpath=following-sibling::label")
            ring = shown if reached[-1] == "file" else focused
            style = "element => getComputedStyle(element).outlineStyle"
            assert ring.evaluate(style) == "solid"
        assert reached == ["brush", "undo", "clear", "file"]
        with page.expect_file_chooser():
            page.keyboard.press("Enter")

    def test_screen_readers_find_a_name_for_everything(self, page):
        draw(page, SEVEN)
        expect_label(page, "7")
        for role, name in {
            "img": "Drawing area",
            "slider": "Brush",
            "list": "Probability of each label",
            "heading": "Draw a digit",
            "region": "Recent",
        }.items():
            expect(page.get_by_role(role, name=name)).to_be_visible()
        expect(page.get_by_role("status")).to_have_attribute("aria-busy", "false")

    @pytest.mark.parametrize("width", [320, 375, 768, 1100])
    def test_the_page_fits_the_window(self, opened, width):
        page = opened(viewport={"width": width, "height": 640})
        draw(page, SEVEN)
        expect_label(page, "7")
        words = prediction("Ankle boot", ("Ankle boot", 0.9), ("T-shirt/top", 0.1))
        page.route("**/predict?*", lambda route: route.fulfill(json=words))
        for check in range(2):
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width
            if not check:
                page.keyboard.press("Escape")
                draw(page, ONE)
                expect_label(page, "Ankle boot")

    def test_dark_mode(self, page):
        draw(page, SEVEN)
        expect_label(page, "7")
        corner = """Math.max(...document.querySelector("#canvas")
            .getContext("2d").getImageData(0, 0, 1, 1).data.slice(0, 3))"""
        assert page.evaluate(corner) > 240
        page.emulate_media(color_scheme="dark")
        # The page repaints once it is notified.
        for _ in range(50):
            if page.evaluate(corner) < 50:
                break
            page.wait_for_timeout(100)  # ms
        assert page.evaluate(corner) < 50
        background = "getComputedStyle(document.body).backgroundColor"
        levels = re.findall(r"\d+", page.evaluate(background))
        assert all(int(level) < 50 for level in levels)
        page.keyboard.press("Escape")
        draw(page, ONE)
        expect_label(page, "1")

    def test_reduced_motion_disables_animations(self, opened):
        page = opened(reduced_motion="reduce")
        draw(page, SEVEN)
        expect_label(page, "7")
        moving = "document.getAnimations().length"
        assert page.evaluate(moving) == 0


# Labels of photos may be anything that can be the name of a folder.
DISC = "a round thing that is red all over, called by more than fifty letters"
SQUARE = "Grünstichquadratzeichnungsmusterbeispielsammlungsverzeichnis"
TRIANGLE = "🔺 μπλε 三角形 مثلث"
COLORS = {DISC: (210, 40, 40), SQUARE: (30, 150, 60), TRIANGLE: (40, 70, 200)}

# Keeps the last body that the page sends: the browser does not tell those of blobs.
RECORDER = """
    const send = window.fetch;
    window.fetch = (address, options) => {
        if (options?.body) window.sent = options.body;
        return send(address, options);
    };
"""


def shape(label, width=60, height=60, shift=0):
    """A picture of the shape with a label."""
    image = Image.new("RGB", (width, height), (235, 225, 205))
    pen = ImageDraw.Draw(image)
    side = min(width, height)
    left, top = (width - side) // 2 + shift, (height - side) // 2
    box = [left + side // 5, top + side // 5, left + 4 * side // 5, top + 4 * side // 5]
    if label == DISC:
        pen.ellipse(box, COLORS[label])
    elif label == SQUARE:
        pen.rectangle(box, COLORS[label])
    else:
        x, y, right, bottom = box
        middle = ((x + right) // 2, y)
        pen.polygon([(x, bottom), middle, (right, bottom)], COLORS[label])
    return image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The directory of a model of coloured shapes."""
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 16), ("test", 4)):
        for label in COLORS:
            (folder / "data" / split / label).mkdir(parents=True)
            for index in range(count):
                image = shape(label, 60 + index, 60, index % 9 - 4)
                image.save(folder / "data" / split / label / f"{index}.png")
    folders = {"data_dir": "data", "model_dir": "out", "log_dir": "logs"}
    folders["cache_dir"] = "cache"
    command = [sys.executable, "train.py", "--dataset=custom", "--model=cnn"]
    command += ["--filters=8,16", "--image_size=32", "--epochs=12", "--batch_size=8"]
    command += [f"--{flag}={folder / name}" for flag, name in folders.items()]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def photo_server(photos, tmp_path_factory):
    """The address of the page of that model, which has a name of its own."""
    log = tmp_path_factory.mktemp("photo_server") / "log"
    running = Server(photos, log, '--model_name=round & "square"')
    yield running.url
    running.stop()


@pytest.fixture
def shown(opened, photo_server):
    """Opens the page of that model with options of the browser."""

    def show(**options):
        options = {"viewport": {"width": 1100, "height": 900}} | options
        return opened(photo_server, labels=3, script=RECORDER, **options)

    return show


@pytest.fixture
def gallery(shown):
    """The page of that model."""
    return shown()


def png(label, *size):
    return encoded(shape(label, *size), "PNG")


def sent(page):
    """The content and the type of the last body that the page sent."""
    content, kind = page.evaluate(
        """async () => {
            const url = new FileReader();
            url.readAsDataURL(window.sent);
            await new Promise(resolve => { url.onload = resolve; });
            return [url.result.split(",")[1], window.sent.type];
        }"""
    )
    return base64.b64decode(content), kind


def predicted(model_dir, path, output):
    """The probabilities of all labels as predict.py prints them."""
    flags = [f"--model_dir={model_dir}", "--top_k=3", "--format=json"]
    predict.main(["predict", *flags, f"--output={output}", str(path)])
    (row,) = json.loads(output.read_text())
    return {one["label"]: one["probability"] for one in row["top"]}


def colors(page, canvas="#seen"):
    """The pixels of a canvas as [height][width][r, g, b, a]."""
    return page.locator(canvas).evaluate(
        """canvas => {
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            const at = (x, y) => [...data.slice(4 * (y * width + x)).slice(0, 4)];
            const count = length => [...Array(length).keys()];
            return count(height).map(y => count(width).map(x => at(x, y)));
        }"""
    )


class TestTheModelDecides:
    def test_digits_are_drawn(self, page):
        expect(page).to_have_title("mnist_tf: draw a digit")
        expect(page.get_by_role("heading", level=1)).to_have_text("Draw a digit")
        expect(page.locator("#canvas")).to_be_visible()
        expect(page.locator("#field")).to_be_hidden()

    def test_anything_else_is_a_picture(self, gallery):
        expect(gallery).to_have_title("mnist_tf: classify a picture")
        heading = gallery.get_by_role("heading", level=1)
        expect(heading).to_have_text("Classify a picture")
        expect(gallery.get_by_text("Drop a picture here")).to_be_visible()
        expect(gallery.get_by_role("status")).to_have_text("No picture yet.")
        expect(gallery.locator("#canvas")).to_be_hidden()
        expect(gallery.locator("body")).not_to_contain_text("igit", use_inner_text=True)

    @pytest.mark.parametrize("digits", [True, False])
    def test_the_wrong_page_does_not_even_flash(
        self, browser, server, photo_server, digits
    ):
        # Without JavaScript, a page stays as it is before its scripts run.
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(server if digits else photo_server)
        heading = "Draw a digit" if digits else "Classify a picture"
        expect(page.get_by_role("heading", level=1)).to_have_text(heading)
        expect(page.locator("#canvas")).to_be_visible(visible=digits)
        expect(page.locator("#field")).to_be_visible(visible=not digits)
        context.close()


class TestPictures:
    @pytest.mark.parametrize("form", ["png", "jpeg", "bmp", "gif", "webp"])
    def test_a_file_has_the_same_probabilities_everywhere(
        self, gallery, photos, tmp_path, form
    ):
        path = tmp_path / f"picture.{form}"
        path.write_bytes(encoded(shape(TRIANGLE, 300, 200), form))
        with gallery.expect_response("**/predict?*") as response:
            drop(gallery, path.read_bytes(), path.name, "")
        expect_label(gallery, TRIANGLE)
        assert sent(gallery) == (path.read_bytes(), f"image/{form}")
        (row,) = response.value.json()["predictions"]
        found = {one["label"]: one["probability"] for one in row["top"]}
        assert found == pytest.approx(
            predicted(photos, path, tmp_path / "expected"), abs=1e-5
        )
        percent = gallery.locator("#bars .best .share")
        expect(percent).to_have_text(f"{found[TRIANGLE] * 100:.0f}%")

    def test_paste(self, gallery):
        paste(gallery, png(SQUARE))
        expect_label(gallery, SQUARE)

    def test_choose(self, gallery, tmp_path):
        path = tmp_path / "disc.png"
        shape(DISC).save(path)
        button = gallery.get_by_role("button", name="Choose a picture")
        button.set_input_files(path)
        expect_label(gallery, DISC)
        assert sent(gallery)[0] == path.read_bytes()

    def test_a_click_on_the_field_chooses_too(self, gallery):
        with gallery.expect_file_chooser():
            gallery.locator("#field").click()

    @pytest.mark.parametrize("size", [(300, 200), (90, 400), (24, 24)])
    def test_the_whole_picture_is_shown(self, gallery, size):
        drop(gallery, png(DISC, *size), "disc.png")
        picture = gallery.get_by_role("img", name="disc.png")
        expect(picture).to_be_visible()
        expect(gallery.get_by_text("Drop a picture here")).to_be_hidden()
        box = picture.bounding_box()
        field = gallery.locator("#field").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], 0.01)
        longer = max(box["width"], box["height"])
        assert longer == pytest.approx(field["width"], abs=1)

    def test_what_only_the_browser_can_read_is_sent_as_png(self, gallery):
        drawing = (
            '<svg xmlns="http://www.w3.org/2000/svg" width="200" height="200">'
            '<rect width="200" height="200" fill="#ebe1cd"/>'
            '<circle cx="100" cy="100" r="60" fill="#d22828"/></svg>'
        )
        drop(gallery, drawing.encode(), "disc.svg", "image/svg+xml")
        expect_label(gallery, DISC)
        content, kind = sent(gallery)
        assert kind == "image/png"
        assert Image.open(io.BytesIO(content)).size == (200, 200)

    def test_a_file_that_the_server_does_not_take_is_scaled_down(self, gallery, faults):
        large = {"error": "the body exceeds 100 bytes; send less per request"}
        refuse = {"status": 413, "json": large}
        gallery.route("**/predict?*", lambda route: route.fulfill(**refuse), times=2)
        drop(gallery, png(SQUARE, 3000, 1500))
        expect_label(gallery, SQUARE)
        note = "sent as 1024x512 pixels"
        expect(gallery.get_by_role("status")).to_contain_text(note)
        content, kind = sent(gallery)
        assert kind == "image/jpeg"
        assert Image.open(io.BytesIO(content)).size == (1024, 512)
        expect(gallery.get_by_role("alert")).to_be_hidden()
        assert all("status of 413" in fault for fault in faults)
        faults.clear()

    def test_a_file_that_no_server_takes_is_scaled_down_at_once(
        self, gallery, tmp_path
    ):
        path = tmp_path / "large.bmp"
        shape(SQUARE, 2400, 2400).save(path)
        assert path.stat().st_size > 2**24
        gallery.locator("#choose").set_input_files(path)
        expect_label(gallery, SQUARE)
        content, kind = sent(gallery)
        assert kind == "image/png"
        assert Image.open(io.BytesIO(content)).size == (2048, 2048)

    def test_the_answer_for_the_last_picture_does_not_stay(self, gallery):
        drop(gallery, png(DISC))
        expect_label(gallery, DISC)
        held = []
        gallery.route("**/predict?*", lambda route: held.append(route))
        drop(gallery, png(SQUARE))
        expect(gallery.get_by_role("status")).to_have_text("Classifying…")
        gallery.wait_for_timeout(100)
        held[0].continue_()
        expect_label(gallery, SQUARE)
        assert recent(gallery) == [SQUARE, DISC]

    @pytest.mark.parametrize("key", ["Escape", "Delete", None])
    def test_clear(self, gallery, key):
        drop(gallery, png(DISC))
        expect_label(gallery, DISC)
        if key:
            gallery.keyboard.press(key)
        else:
            gallery.get_by_role("button", name="Clear").click()
        expect_label(gallery, "")
        expect(gallery.get_by_role("status")).to_have_text("No picture yet.")
        expect(gallery.get_by_text("Drop a picture here")).to_be_visible()
        expect(gallery.locator("#picture")).to_be_hidden()
        assert ink(gallery, "#seen") == 0

    def test_a_file_that_is_not_a_picture_is_rejected(self, gallery):
        drop(gallery, b"Once upon a time", "tale.txt", "text/plain")
        expect(gallery.get_by_role("alert")).to_have_text(
            "tale.txt is not a picture that this browser can read."
        )
        drop(gallery, png(DISC))
        expect_label(gallery, DISC)
        expect(gallery.get_by_role("alert")).to_be_hidden()

    def test_the_page_asks_for_the_token_and_sends_it(self, gallery, faults):
        def guard(route):
            if route.request.headers.get("authorization") == "Bearer open-sesame":
                route.continue_()
            else:
                route.fulfill(status=401, json={"error": "missing or invalid token"})

        gallery.route("**/predict?*", guard)
        gallery.route("**/metadata", guard)
        gallery.reload()
        alert = gallery.get_by_role("alert")
        expect(alert).to_have_text("The server requires a token.")
        drop(gallery, png(DISC))
        gallery.get_by_label("Token").fill("open-sesame")
        gallery.get_by_role("button", name="Use token").click()
        expect_label(gallery, DISC)
        expect(gallery.locator("#bars li")).to_have_count(3)
        assert all("status of 401" in fault for fault in faults)
        faults.clear()


class TestCamera:
    @pytest.fixture
    def gallery(self, shown):
        return shown(permissions=["camera"])

    @staticmethod
    def start(page):
        """Opens the camera; returns its track."""
        page.get_by_role("button", name="Camera").click()
        expect(page.get_by_label("What the camera sees")).to_be_visible()
        expect(page.locator("#preview")).not_to_have_js_property("videoWidth", 0)
        return page.evaluate_handle(
            "document.querySelector('#preview').srcObject.getTracks()[0]"
        )

    @staticmethod
    def expect_stopped(page, track):
        expect(page.get_by_label("What the camera sees")).to_be_hidden()
        assert track.evaluate("track => track.readyState") == "ended"

    def test_a_picture_is_taken(self, gallery):
        track = self.start(gallery)
        shutter = gallery.get_by_role("button", name="Take the picture")
        expect(shutter).to_be_focused()
        with gallery.expect_response("**/predict?*") as response:
            gallery.keyboard.press("Enter")
        assert response.value.ok
        self.expect_stopped(gallery, track)
        expect(gallery.get_by_role("button", name="Camera")).to_be_focused()
        picture = gallery.get_by_role("img", name="The picture of the camera")
        expect(picture).to_be_visible()
        expect(gallery.locator("#latest li")).to_have_count(1)
        content, kind = sent(gallery)
        assert kind == "image/png"
        assert Image.open(io.BytesIO(content)).width >= 320

    @pytest.mark.parametrize("way", ["Escape", "Camera", "drop", "leave"])
    def test_the_camera_stops(self, gallery, way):
        track = self.start(gallery)
        if way == "Escape":
            gallery.keyboard.press("Escape")
        elif way == "Camera":
            gallery.get_by_role("button", name="Camera").click()
        elif way == "drop":
            drop(gallery, png(DISC))
        else:
            gallery.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
        self.expect_stopped(gallery, track)

    def test_escape_keeps_the_picture(self, gallery):
        drop(gallery, png(DISC))
        expect_label(gallery, DISC)
        self.start(gallery)
        gallery.keyboard.press("Escape")
        expect_label(gallery, DISC)

    def test_a_refusal_is_a_notice(self, shown):
        page = shown()
        page.get_by_role("button", name="Camera").click()
        expect(page.get_by_role("alert")).to_have_text(
            "The browser does not allow this page to use the camera."
        )
        drop(page, png(DISC))
        expect_label(page, DISC)
        expect(page.get_by_role("alert")).to_be_hidden()

    def test_there_is_no_button_where_browsers_have_no_camera(
        self, opened, photo_server
    ):
        # As for a page that came over plain HTTP from another machine.
        nothing = "Object.defineProperty(navigator, 'mediaDevices', {})"
        page = opened(photo_server, labels=3, script=nothing)
        expect(page.get_by_role("button", name="Choose a picture")).to_be_visible()
        expect(page.get_by_role("button", name="Camera")).to_be_hidden()


class TestPixels:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_colours_are_those_that_the_network_sees(self, shown, scheme):
        page = shown(color_scheme=scheme)
        drop(page, png(DISC))
        expect_label(page, DISC)
        for canvas in ("#seen", "#latest canvas"):
            found = colors(page, canvas)
            assert (len(found), len(found[0])) == (32, 32)
            assert found[16][16] == pytest.approx([*COLORS[DISC], 255], abs=2)
            assert found[0][0] == pytest.approx([235, 225, 205, 255], abs=2)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_greys_are_greys_and_proportions_stay(self, shown, scheme):
        page = shown(color_scheme=scheme)
        answer = prediction(DISC, (DISC, 0.9), (SQUARE, 0.1))
        answer["predictions"][0]["pixels"] = base64.b64encode(
            bytes(range(200))
        ).decode()
        answer["image_shape"] = [10, 20]
        page.route("**/predict?*", lambda route: route.fulfill(json=answer))
        drop(page, png(DISC))
        expect_label(page, DISC)
        for canvas in ("#seen", "#latest canvas"):
            found = colors(page, canvas)
            assert [row[0] for row in found] == [
                [level, level, level, 255] for level in range(0, 200, 20)
            ]
            box = page.locator(canvas).bounding_box()
            assert box["width"] / box["height"] == pytest.approx(2, abs=0.05)


class TestLabels:
    @pytest.mark.parametrize("label", COLORS)
    def test_long_names_fit_a_phone(self, shown, label):
        page = shown(viewport={"width": 320, "height": 640})
        drop(page, png(label))
        expect_label(page, label)
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        # A name that is cut can still be read as a whole.
        for element in page.locator("#bars .label, #latest .label").all():
            assert element.get_attribute("title") == element.text_content()
        edges = page.locator("main *").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect().right)"
        )
        assert max(edges) <= 320
        # The picture that the network sees stays beside the words.
        assert page.locator("#seen").bounding_box()["width"] >= 100

    def test_the_best_of_many_labels_come_first(self, opened, photo_server):
        names = [f"kind {number} of three hundred kinds" for number in range(300)]
        best = [(names[17 * rank], 0.5 / 2**rank) for rank in range(10)]
        asked = []

        def describe(route):
            answer = route.fetch().json()
            answer["metadata"]["labels"] = names
            route.fulfill(json=answer)

        def answer(route):
            asked.append(route.request.url)
            route.fulfill(json=prediction(names[0], *best))

        page = opened(photo_server, labels=3)
        page.route("**/metadata", describe)
        page.route("**/predict?*", answer)
        page.reload()
        expect(page.locator("#bars li")).to_have_count(0)
        drop(page, png(DISC))
        expect_label(page, names[0])
        assert "top_k=10&" in asked[0]
        shown = page.locator("#bars .label").all_text_contents()
        assert shown == [name for name, _ in best]
        shares = page.locator("#bars .share").all_text_contents()
        assert shares[:3] == ["50%", "25%", "13%"]
        expect(page.locator("#bars .best .label")).to_have_text(names[0])
        rest = page.get_by_text("The 10 most probable of 300 labels")
        expect(rest).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#bars li")).to_have_count(0)
        expect(rest).to_be_hidden()

    def test_few_labels_keep_their_order(self, gallery):
        drop(gallery, png(DISC))
        expect_label(gallery, DISC)
        names = gallery.locator("#bars .label").all_text_contents()
        assert names == sorted(COLORS)
        expect(gallery.locator("#bars .best .label")).to_have_text(DISC)


class TestAccessibilityOfPictures:
    def test_the_keyboard_reaches_everything(self, gallery):
        gallery.on("filechooser", lambda chooser: None)
        reached = []
        for _ in range(3):
            gallery.keyboard.press("Tab")
            focused = gallery.locator(":focus")
            reached.append(focused.get_attribute("id"))
            shown = focused.locator("xpath=following-sibling::label")
            ring = shown if reached[-1] == "choose" else focused
            style = "element => getComputedStyle(element).outlineStyle"
            assert ring.evaluate(style) == "solid"
        assert reached == ["choose", "camera", "remove"]

    def test_screen_readers_find_a_name_for_everything(self, gallery):
        drop(gallery, png(DISC), "disc.png")
        expect_label(gallery, DISC)
        for role, name in {
            "region": "Picture",
            "img": "disc.png",
            "button": "Choose a picture",
            "list": "Probability of each label",
            "heading": "Classify a picture",
        }.items():
            expect(gallery.get_by_role(role, name=name, exact=True)).to_be_visible()
        expect(gallery.get_by_role("img", name="as the network")).to_be_visible()
        expect(gallery.get_by_role("status")).to_contain_text("% sure")

    @pytest.mark.parametrize("width", [320, 768])
    def test_the_page_fits_the_window(self, shown, width):
        page = shown(viewport={"width": width, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_reduced_motion_disables_animations(self, shown):
        page = shown(reduced_motion="reduce")
        drop(page, png(DISC))
        expect_label(page, DISC)
        assert page.evaluate("document.getAnimations().length") == 0
