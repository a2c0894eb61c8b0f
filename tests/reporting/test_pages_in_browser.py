"""The report and the vote page in a real browser: layout, keyboard, saved votes, and hostile prompts."""

import json
from pathlib import Path

import pandas as pd
import pytest
from helpers.browser import NEEDS_CHROMIUM, Browser
from helpers.finished_run import EACH, PROMPTS, RIGHT, SETTINGS, FinishedRun, prompt_set, write_arm
from helpers.stages import evaluate
from test_report import HOSTILE, hostile_run

from miniature.scenes import CATEGORIES
from sur_adapter.evaluation.human_votes import COLUMNS, read_votes
from sur_adapter.io.shards import write_table
from sur_adapter.reporting.report import SECTIONS

pytestmark = NEEDS_CHROMIUM
PAGES = ("index.html", "ab_vote.html")
WIDTHS = (360, 1200)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    tab = Browser(tmp_path_factory.mktemp("browser"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    sets = {"hand_written": prompt_set({"known_words": "action"}), "reasoning": prompt_set({"reasoning_number": "counting"}, 2 * EACH)}
    finished = FinishedRun(tmp_path_factory.mktemp("run"), sets=sets)
    finished.run()
    return finished.reports


@pytest.fixture(scope="module")
def full_reports(tmp_path_factory) -> Path:
    """Reports with every section, of as many parts as those of the default run: sets, sweep, votes, data card, settings and curves."""
    folder = tmp_path_factory.mktemp("full")
    sets = {f"set_{i}": prompt_set({f"set_{i}_{name}": name for name in ("action", "color", "counting")}, (i + 1) * EACH) for i in range(3)}
    finished = FinishedRun(folder, right=RIGHT | {"adapter": 5}, sets=sets)
    for scale in ("0", "0.5", "1", "1.5"):
        write_arm(folder / "sweep", scale, PROMPTS, 2 + int(4 * min(float(scale), 1)), seeds=1)
        (folder / "sweep" / scale / "prompts.parquet").unlink()
    write_sentences(folder)
    reasons = {f"reason_{i}": 10 for i in range(10)}
    counts = {"in": 200, "kept": 100, "dropped": reasons}
    splits = {"train": 80, "validation": 10, "test": 10}
    (finished.reports / "funnel.json").write_text(json.dumps(counts | {"by_source": {"miniature": counts}, "by_split": splits}))
    curves = ("loss", "gradient_norm", "prompt", "llm", "validation_loss", "validation_llm")
    history = [{"step": step} | dict.fromkeys(curves, 1 / step) for step in (500, 1000, 1500)]
    (finished.reports / "train" / "history.json").write_text(json.dumps(history))
    (finished.reports / "data.md").write_text(
        "# Data card\n\n200 rows in.\n\n## Licences\n\n| source | licence |\n| --- | --- |\n| a | CC0 |\n"
    )
    finished.run()
    key = pd.read_csv(finished.reports / "ab_key.csv")
    answers = ["left", "right", "both_right", "both_wrong"]
    votes = [(pair, rater, answers[(i + (rater == "b")) % 4]) for i, pair in enumerate(key.pair) for rater in "ab"]
    pd.DataFrame(votes, columns=COLUMNS).to_csv(folder / "votes.csv", index=False)
    more = {name: folder / f"{name}.parquet" for name in ("sentences", "answers")} | {
        "sweep": folder / "sweep",
        "votes": folder / "votes.csv",
    }
    r = finished.reports
    evaluate(finished.prompts, finished.images, r / "funnel.json", r / "train", finished.adapter, r, **more, evaluate=SETTINGS)
    return finished.reports


def write_sentences(folder: Path) -> None:
    """Sentences of as many kinds as those of the default run, with the language model's answers."""
    rows = [(f"s{i}", f"kind_{i % 16}", "1 red circle", "1 red circle", True) for i in range(64)]
    table = pd.DataFrame(rows, columns=["id", "kind", "expected", "answer", "keep"])
    write_table(folder / "sentences.parquet", table.drop(columns="answer"))
    write_table(folder / "answers.parquet", table[["id", "answer"]])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    return hostile_run(tmp_path_factory.mktemp("hostile")).reports


def open_vote_page(browser: Browser, reports: Path) -> int:
    """Opens the vote page without saved votes and returns its number of pairs."""
    browser.open(reports / "ab_vote.html")
    browser.run("localStorage.clear()")
    browser.open(reports / "ab_vote.html")
    return browser.run("document.querySelectorAll('.pair').length")


def elements_beyond_the_screen(browser: Browser) -> list[str]:
    """The HTML of each element that is wider than the screen."""
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.run("innerWidth") == browser.run("document.documentElement.scrollWidth")
    return browser.run(f"{beyond}.filter(e => !e.closest('.visually-hidden')).map(e => e.outerHTML.slice(0, 200))")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("fixture", ["reports", "full_reports", "hostile"])
def test_no_element_is_wider_than_the_screen(browser, request, fixture, width, page):
    browser.open(request.getfixturevalue(fixture) / page, width)
    assert elements_beyond_the_screen(browser) == []


def test_tables_fit_a_phone_without_scrolling_or_broken_words(browser, reports):
    browser.open(reports / "index.html", 360)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.run("[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length") == 0
    words = "[...document.querySelectorAll('thead th')].filter(h => h.textContent.trim().split(/\\s+/).length === 1)"
    lines = (
        "h => { const r = document.createRange(); r.selectNodeContents(h); return new Set([...r.getClientRects()].map(b => b.top)).size }"
    )
    assert browser.run(f"Math.max(...{words}.map({lines}))") == 1


def test_a_report_with_all_sections_is_at_most_6000_pixels_tall(browser, full_reports):
    browser.open(full_reports / "index.html", 1200)
    assert set(browser.run("[...document.querySelectorAll('section')].map(s => s.getAttribute('aria-labelledby'))")) == set(SECTIONS)
    assert browser.run("document.querySelectorAll('details[open]').length") == 0
    assert browser.run("document.documentElement.scrollHeight") <= 6000


def test_all_images_of_a_sample_are_in_one_row(browser, full_reports):
    for width in WIDTHS:
        browser.open(full_reports / "index.html", width)
        tops = "[...new Set([...r.querySelectorAll('img')].map(i => i.getBoundingClientRect().top))].length"
        rows = browser.run(f"[...document.querySelectorAll('article .row')].filter(r => r.offsetHeight).map(r => {tops})")
        assert set(rows) == {1}, width


def test_a_printed_report_has_the_folded_detail(browser, full_reports):
    browser.open(full_reports / "index.html", 1200)
    visible = "document.querySelector('#accuracy ~ details table').checkVisibility({contentVisibilityAuto: true})"
    assert not browser.run(visible)
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")  # the style is drawn
    assert browser.run(visible)
    browser.send("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_within_a_second_and_sends_no_request(browser, reports, page):
    browser.requests.clear()
    assert min(browser.open(reports / page) for _ in range(3)) < 1, "the fastest of three"
    assert browser.requests == []
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("page", PAGES)
def test_hostile_prompts_add_no_script_and_no_tag(browser, hostile, page):
    browser.dialogs.clear()
    browser.errors.clear()
    browser.open(hostile / page)
    assert browser.run("document.body.textContent").count("<script>alert(1)</script>") > 0, "the prompts are there, as text"
    assert browser.dialogs == browser.errors == []
    assert browser.run("document.scripts.length") == (page == "ab_vote.html")
    assert browser.run("document.querySelectorAll('[onerror], b > i, img:not([src^=\"data:image/\"])').length") == 0


def test_the_security_policy_blocks_an_injected_script(browser, reports, tmp_path):
    for page in PAGES:
        injected = tmp_path / page
        injected.write_text((reports / page).read_text().replace("</main>", "<script>document.title='hit'</script></main>"))
        browser.open(injected)
        assert browser.run("document.title") != "hit"


@pytest.mark.parametrize("page", PAGES)
def test_dark_mode_is_dark_and_light_mode_is_light(browser, reports, page):
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    browser.open(reports / page, dark=True)
    night = browser.run(light)
    browser.open(reports / page)
    assert night < 150 < 600 < browser.run(light)


@pytest.mark.parametrize("page", PAGES)
def test_headings_are_nested_and_controls_have_names(browser, reports, page):
    browser.open(reports / page)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    levels = [int(tag[1]) for tag in browser.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = [n["role"]["value"] for n in nodes if not n["ignored"]]
    nameless = {n["role"]["value"] for n in nodes if not n["ignored"] and not n.get("name", {}).get("value")}
    assert roles.count("main") == 1 and not nameless & {"link", "button", "image", "img", "textbox", "progressbar", "navigation"}
    named = "[...document.querySelectorAll('[tabindex=\"0\"]')].every(e => e.ariaLabel.length > 5)"
    assert browser.run(named), "every scrollable element has a label"


def test_contents_link_to_sections_and_focus_is_visible(browser, reports):
    browser.open(reports / "index.html")
    names = browser.run("[...document.querySelectorAll('nav a')].map(a => a.hash)")
    assert len(names) > 5 and all(browser.run(f"document.querySelector('{name}') !== null") for name in names)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    browser.press("Tab")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_one_pair_is_shown_at_a_time_and_arrow_keys_vote(browser, reports):
    count = open_vote_page(browser, reports)
    assert count == 2 * EACH * len(CATEGORIES), "with baseline and with complex"
    shown = "[...document.querySelectorAll('.pair')].map((p, i) => p.hidden ? -1 : i).filter(i => i >= 0)"
    places = []
    for key in ("ArrowLeft", "ArrowDown", "ArrowUp", "ArrowRight", "Backspace"):
        browser.press(key)
        places += browser.run(shown)
    assert places == [1, 2, 3, 4, 3]
    assert browser.run("document.getElementById('place').textContent") == f"Pair 4 of {count}"
    assert browser.run("document.querySelector('.pair:not([hidden]) [aria-pressed=true]').dataset.vote") == "right"


def test_votes_survive_a_reload_and_are_saved_in_the_format_that_is_read(browser, reports):
    open_vote_page(browser, reports)
    browser.press("ArrowLeft", "ArrowDown", "ArrowRight", "Backspace", "ArrowUp", "ArrowRight")
    browser.open(reports / "ab_vote.html")
    assert browser.run("document.getElementById('place').textContent").startswith("Pair 5 of")
    browser.run("document.getElementById('rater').value = '=Ann, \"B\"'")
    browser.run("document.getElementById('save').click()")
    file = browser.downloaded("votes.csv")
    votes, key = read_votes(file), pd.read_csv(reports / "ab_key.csv")
    file.unlink()
    assert list(votes.vote) == ["left", "both_wrong", "both_right", "right"] and set(votes.rater) == {"Ann B"}
    assert list(votes.pair) == list(key.pair[:4])


def test_typing_a_name_and_key_repeats_are_not_votes(browser, reports):
    open_vote_page(browser, reports)
    browser.run("document.getElementById('rater').focus()")
    browser.press("ArrowLeft")
    browser.run("document.activeElement.blur()")
    browser.send("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37, autoRepeat=True)
    assert browser.run("document.getElementById('bar').value") == 0
    browser.press("ArrowLeft")
    assert browser.run("document.getElementById('bar').value") == 1


def test_the_end_is_announced_and_back_returns_to_the_last_pair(browser, reports):
    count = open_vote_page(browser, reports)
    browser.press(*["ArrowLeft"] * (count + 3))
    assert browser.run("!document.getElementById('done').hidden && document.activeElement.id === 'done'")
    assert browser.run("document.getElementById('bar').value") == count
    browser.press("Backspace")
    assert browser.run("document.getElementById('place').textContent") == f"Pair {count} of {count}"


def test_clicks_vote_and_move_the_focus_to_the_next_prompt(browser, reports):
    open_vote_page(browser, reports)
    browser.run("document.querySelector('.pair:not([hidden]) [data-vote=right]').click()")
    assert browser.run("document.activeElement === document.querySelectorAll('.pair h2')[1]")
    assert browser.run("document.querySelector('.pair').hidden")


@pytest.mark.parametrize(("vote", "key"), [("both_right", "ArrowUp"), ("both_wrong", "ArrowDown")])
def test_both_right_and_both_wrong_are_answers_of_their_own(browser, reports, vote, key):
    open_vote_page(browser, reports)
    browser.run(f"document.querySelector('.controls [data-vote={vote}]').click()")
    browser.press(key)
    assert browser.run("Object.values(JSON.parse(Object.values(localStorage)[0]).votes)") == [vote, vote]
    browser.press("Backspace")
    assert browser.run("[...document.querySelectorAll('.controls [aria-pressed=true]')].map(b => b.dataset.vote)") == [vote]


def test_a_tap_on_an_image_is_a_vote_on_a_phone(browser, reports):
    browser.send("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.open(reports / "ab_vote.html", 390)
    browser.run("localStorage.clear()")
    browser.open(reports / "ab_vote.html", 390)
    assert "Tap or click the better image" in browser.run("document.querySelector('header').innerText")
    places = []
    for side in ("right", "left"):
        center = "r => [r.x + r.width / 2, r.y + r.height / 2]"
        x, y = browser.run(f"({center})(document.querySelector('.pair:not([hidden]) [data-vote={side}]').getBoundingClientRect())")
        browser.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        places.append(browser.run("document.getElementById('place').textContent.split(' of')[0]"))
    browser.send("Emulation.setTouchEmulationEnabled", enabled=False)
    assert places == ["Pair 2", "Pair 3"]
    assert browser.run("Object.values(JSON.parse(Object.values(localStorage)[0]).votes)") == ["right", "left"]


def test_the_buttons_of_a_phone_are_large_enough_and_on_the_screen(browser, reports):
    open_vote_page(browser, reports)
    browser.open(reports / "ab_vote.html", 390)
    boxes = browser.run(
        "[...document.querySelectorAll('.controls button')].map(b => b.getBoundingClientRect()).map(r => [r.height, r.bottom])"
    )
    assert len(boxes) == 5 and all(height >= 44 and bottom < 800 for height, bottom in boxes)


def test_a_double_click_is_one_vote(browser, reports):
    open_vote_page(browser, reports)
    button = "document.querySelector('.controls [data-vote=both_wrong]')"
    for count in (1, 2):
        browser.run(f"{button}.dispatchEvent(new MouseEvent('click', {{detail: {count}, bubbles: true}}))")
    assert browser.run("document.getElementById('bar').value") == 1


def test_a_very_long_prompt_keeps_the_images_on_the_screen(browser, hostile):
    open_vote_page(browser, hostile)
    long = f"[...document.querySelectorAll('.pair h2')].findIndex(h => h.textContent.startsWith({HOSTILE[1][:50]!r}))"
    browser.press(*["ArrowLeft"] * browser.run(long))
    assert browser.run("document.querySelector('.pair:not([hidden]) .two').getBoundingClientRect().top") < 800
