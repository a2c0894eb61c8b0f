"""The demo page in a real browser: input, images, history, downloads, and no request to another host."""

import base64
import json
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers.browser import KEY_CODES, NEEDS_CHROMIUM, Browser
from helpers.loopback_hub import free_port
from helpers.miniature_adapter import MINIATURE, random_adapter
from PIL import Image

from sur_adapter.cli.demo import serve
from sur_adapter.cli.demo_page import PROMPT
from sur_adapter.cli.loading import load_session

KEY_CODES |= {"Home": 36, "Delete": 46}
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \u202ered **bold** {{7*7}} $x^2$ [a](javascript:alert(3))"
IMAGE_URLS = "[...document.querySelectorAll('#plain img, #adapted img')].map(i => i.src)"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    return random_adapter(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def address(adapter):
    demo = serve(adapter, MINIATURE, port=free_port(), guidance_scale=3.0, wait=False)
    yield demo.local_url
    demo.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    tab = Browser(tmp_path_factory.mktemp("browser"))
    yield tab
    tab.close()


def until(browser: Browser, script: str, seconds: float = 60):
    """Waits for a JavaScript expression to be true and returns its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := browser.run(script):
            return value
        time.sleep(0.1)
    raise AssertionError(f"after {seconds} s this is still false: {script}; the page shows {browser.run('document.body.innerText')}")


def open_page(browser: Browser, address: str, width: int = 1200, dark: bool = False) -> None:
    browser.open(address, width, dark)
    until(browser, "document.querySelector('#generate') !== null && document.querySelector('#status p') !== null")
    fill(browser, "#steps input", "2")


def fill(browser: Browser, field: str, text: str) -> None:
    """Selects the content of a field and types over it, as a user does."""
    browser.run(f"document.querySelector('{field}').focus(); document.querySelector('{field}').select()")
    browser.send("Input.insertText", text=text) if text else browser.press("Delete")


def generate(browser: Browser) -> list[str]:
    """Presses the button, waits, and returns the URLs of both images."""
    before = browser.run("document.querySelectorAll('#history button').length")
    browser.run("document.querySelector('#generate').click()")
    until(browser, f"document.querySelectorAll('#history button').length === {before + 1}")
    browser.run("document.querySelector('#plain').scrollIntoView()")  # images below the window are not loaded
    until(browser, f"{IMAGE_URLS}.length === 2 && [...document.images].every(i => i.complete && i.naturalWidth > 0)")
    return browser.run(IMAGE_URLS)


def fetch(browser: Browser, address: str) -> bytes:
    script = f"""fetch({json.dumps(address)}).then(r => r.blob()).then(b => new Promise(done => {{
        const reader = new FileReader(); reader.onload = () => done(reader.result.split(',')[1]); reader.readAsDataURL(b) }}))"""
    return base64.b64decode(browser.run(script))


def pixels(data: bytes) -> bytes:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).tobytes()


@NEEDS_CHROMIUM
def test_both_images_of_a_typed_prompt_are_those_of_the_session(browser, address, adapter):
    open_page(browser, address)
    fill(browser, "#prompt textarea", "two green stars")
    fill(browser, "#negative textarea", "blue")
    fill(browser, "#seed input", "5")
    shown = [pixels(fetch(browser, source)) for source in generate(browser)]
    pair = load_session(adapter, MINIATURE).compare("two green stars", "blue", seed=5, num_inference_steps=2, guidance_scale=3.0)
    assert shown == [np.asarray(image).tobytes() for image in (pair.plain, pair.adapted)]
    assert shown[0] != shown[1]
    assert browser.run("[...document.querySelectorAll('.words bdi')].map(w => w.textContent)") == ["two", "green", "stars"]
    changes = browser.run("[...document.querySelectorAll('.words small')].map(w => w.textContent)")
    assert [float(change.replace("−", "-")) for change in changes] == [
        round(100 * (after - before), 1) for _, before, after in pair.attention
    ]


@NEEDS_CHROMIUM
@pytest.mark.parametrize("side", ["plain", "adapted"])
def test_a_saved_png_is_the_image_that_is_shown(browser, address, side):
    open_page(browser, address)
    fill(browser, "#seed input", {"plain": "11", "adapted": "12"}[side])
    shown = dict(zip(("plain", "adapted"), generate(browser), strict=True))
    browser.run(f"document.querySelector('#save-{side}').click()")
    data = browser.downloaded(f"{side}-seed-{11 if side == 'plain' else 12}.png").read_bytes()
    assert data.startswith(b"\x89PNG") and pixels(data) == pixels(fetch(browser, shown[side]))


@NEEDS_CHROMIUM
def test_the_slider_moves_by_keys_and_at_0_both_images_are_equal(browser, address):
    open_page(browser, address)
    slider = "document.querySelector('#scale input[type=range]')"
    assert browser.run(f"[{slider}.value, {slider}.max]") == ["1", "2"]
    browser.run(f"{slider}.focus()")
    browser.press("ArrowRight")
    assert browser.run(f"{slider}.value") == "1.05"
    browser.press("Home")
    assert browser.run(f"{slider}.value") == "0"
    plain, adapted = generate(browser)
    assert pixels(fetch(browser, plain)) == pixels(fetch(browser, adapted))
    assert set(browser.run("[...document.querySelectorAll('.words small')].map(w => w.textContent)")) == {"0.0"}


@NEEDS_CHROMIUM
def test_an_entry_of_the_history_restores_images_and_fields(browser, address):
    open_page(browser, address)
    assert browser.run("document.querySelector('#history') === null || document.querySelector('#history').offsetHeight === 0")
    fill(browser, "#prompt textarea", "a red heart")
    fill(browser, "#seed input", "3")
    first = generate(browser)
    fill(browser, "#prompt textarea", "two blue squares")
    fill(browser, "#seed input", "4")
    assert generate(browser) != first
    labels = browser.run("[...document.querySelectorAll('#history button')].map(b => b.innerText.trim())")
    assert labels == ["seed 4, scale 1: two blue squares", "seed 3, scale 1: a red heart"]
    browser.run("document.querySelectorAll('#history button')[1].click()")
    until(browser, f"JSON.stringify({IMAGE_URLS}) === JSON.stringify({json.dumps(first)})")
    assert browser.run("document.querySelector('#prompt textarea').value") == "a red heart"
    assert browser.run("document.querySelector('#seed input').value") == "3"
    assert browser.run("[...document.querySelectorAll('.words bdi')].map(w => w.textContent).join(' ')") == "a red heart"


@NEEDS_CHROMIUM
def test_shift_enter_in_the_prompt_generates_images(browser, address):
    open_page(browser, address)
    assert browser.run("document.querySelector('#status').innerText.trim()") == "Press Generate, or Shift+Enter in the prompt."
    browser.run("document.querySelector('#prompt textarea').focus()")
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, modifiers=8, text="\r")
    until(browser, f"{IMAGE_URLS}.length === 2")


@NEEDS_CHROMIUM
def test_new_seed_sets_another_number(browser, address):
    open_page(browser, address)
    browser.run("document.querySelector('#new-seed').click()")
    until(browser, "document.querySelector('#seed input').value !== '0'")


@NEEDS_CHROMIUM
@pytest.mark.parametrize(
    "field, text, message",
    [
        ("#prompt textarea", " ", "The prompt is empty: write what the image should show."),
        ("#steps input", "1000000", "The number of steps is 1000000: give a whole number from 1 to 150."),
        ("#seed input", "-1", "The seed is -1: give a whole number from 0 to 4294967295."),
    ],
)
def test_invalid_input_is_reported_in_one_sentence_and_changes_nothing_else(browser, address, field, text, message):
    open_page(browser, address)
    before = generate(browser)
    fill(browser, field, text)
    browser.run("document.querySelector('#generate').click()")
    assert until(browser, "(document.querySelector('[role=alert].wrong') || {}).textContent") == message
    assert browser.run(IMAGE_URLS) == before
    assert browser.run("document.querySelectorAll('#history button').length") == 1
    fill(browser, field, {"#prompt textarea": "a star", "#steps input": "2", "#seed input": "1"}[field])
    assert generate(browser) != before and browser.run("document.querySelector('.wrong') === null"), "the next valid input works"


@NEEDS_CHROMIUM
def test_markup_in_the_prompt_is_shown_as_text(browser, address):
    open_page(browser, address)
    browser.dialogs.clear()
    fill(browser, "#prompt textarea", HOSTILE)
    generate(browser)
    assert "<script>alert(1)</script>" in browser.run("document.querySelector('#history').innerText")
    words = browser.run("[...document.querySelectorAll('.words bdi')].map(w => w.textContent)")
    assert "script" in words and "onerror" in words
    assert browser.run("document.querySelectorAll('.words script, .words img, #history script, [onerror]').length") == 0
    assert browser.dialogs == []


@NEEDS_CHROMIUM
def test_every_control_can_be_reached_with_the_keyboard(browser, address):
    open_page(browser, address)
    browser.run("document.querySelector('#prompt textarea').focus()")
    reached = []
    for _ in range(30):
        browser.press("Tab")
        reached.append(browser.run("(document.activeElement.closest('[id]') || {}).id"))
        if reached[-1] == "generate":
            break
    assert reached[-1] == "generate" and {"negative", "scale", "seed", "steps", "guidance"} <= set(reached)
    assert browser.run("(s => s.outlineStyle !== 'none' || s.boxShadow !== 'none')(getComputedStyle(document.activeElement))")
    browser.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    until(browser, f"{IMAGE_URLS}.length === 2")
    for target in ("save-plain", "save-adapted", "history"):
        for _ in range(30):
            browser.press("Tab")
            if browser.run(f"document.activeElement.closest('#{target}') !== null"):
                break
        assert browser.run(f"document.activeElement.closest('#{target}') !== null"), target


@NEEDS_CHROMIUM
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_narrow_and_wide_screens_in_light_and_dark_and_sends_no_other_request(browser, address, tmp_path, width, dark):
    browser.requests.clear()
    browser.errors.clear()
    open_page(browser, address, width, dark)
    fill(browser, "#prompt textarea", "there are three red circles " + "and_a_word_that_does_not_end" * 20)
    generate(browser)
    assert browser.requests and all(request.startswith(address) for request in browser.requests)
    assert browser.errors == []
    assert browser.run("document.documentElement.scrollWidth") == width
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.run(f"{beyond}.map(e => e.outerHTML.slice(0, 100))") == []
    tops = browser.run("['plain', 'adapted'].map(i => document.getElementById(i).getBoundingClientRect().top)")
    assert tops[0] == tops[1], "side by side"
    light = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)")
    assert light < 150 if dark else light > 600
    browser.screenshot(tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").width == width


@NEEDS_CHROMIUM
def test_headings_are_in_order_and_every_field_has_a_name(browser, address):
    open_page(browser, address)
    generate(browser)
    levels = [int(tag[1]) for tag in browser.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    nameless = {n["role"]["value"] for n in nodes if not n["ignored"] and not n.get("name", {}).get("value")}
    assert not nameless & {"link", "button", "image", "textbox", "slider", "spinbutton"}


@NEEDS_CHROMIUM
def test_two_concurrent_users_get_their_own_images_and_history(browser, address, adapter, tmp_path):
    other = Browser(tmp_path)
    try:
        for tab, seed in ((browser, 21), (other, 22)):
            open_page(tab, address)
            fill(tab, "#seed input", str(seed))
            fill(tab, "#steps input", "40")
        for tab in (browser, other):
            tab.run("document.querySelector('#generate').click()")
        session = load_session(adapter, MINIATURE)
        for tab, seed in ((browser, 21), (other, 22)):
            until(tab, f"{IMAGE_URLS}.length === 2")
            pair = session.compare(PROMPT, seed=seed, num_inference_steps=40, guidance_scale=3.0)
            shown = [pixels(fetch(tab, source)) for source in tab.run(IMAGE_URLS)]
            assert shown == [np.asarray(image).tobytes() for image in (pair.plain, pair.adapted)]
            assert tab.run("document.querySelectorAll('#history button').length") == 1, "each user has a history"
    finally:
        other.close()
