"""The report and the page to vote on, in a real browser: what is read, pressed, saved, and what strangers' prompts cannot do."""

from pathlib import Path

import pandas as pd
import pytest
from helpers.browser import NEEDED, Browser
from helpers.finished_run import EACH, FinishedRun
from test_report import HOSTILE, hostile_world

from miniature.scenes import CATEGORIES
from sur_adapter.evaluation.human_votes import read_votes

pytestmark = NEEDED
PAGES = ("index.html", "ab_vote.html")
WIDTHS = (360, 1200)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    tab = Browser(tmp_path_factory.mktemp("browser"))
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    world = FinishedRun(tmp_path_factory.mktemp("run"))
    world.run()
    return world.reports


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    return hostile_world(tmp_path_factory.mktemp("hostile")).reports


def voting(browser: Browser, reports: Path) -> int:
    """The page to vote on, as nobody has seen it before; how many pairs it holds."""
    browser.open(reports / "ab_vote.html")
    browser.run("localStorage.clear()")
    browser.open(reports / "ab_vote.html")
    return browser.run("document.querySelectorAll('.pair').length")


def sideways(browser: Browser) -> list[str]:
    """What reaches beyond the screen."""
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    beyond = "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
    assert browser.run("innerWidth") == browser.run("document.documentElement.scrollWidth")
    return browser.run(f"{beyond}.filter(e => !e.closest('.unseen')).map(e => e.outerHTML.slice(0, 200))")


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("world", ["reports", "hostile"])
def test_nothing_reaches_beyond_the_screen_whatever_the_prompts_hold(browser, request, world, width, page):
    browser.open(request.getfixturevalue(world) / page, width)
    assert sideways(browser) == []


def test_on_a_phone_no_table_need_be_scrolled_and_no_heading_of_one_is_torn(browser, reports):
    browser.open(reports / "index.html", 360)
    assert browser.run("[...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth).length") == 0
    words = "[...document.querySelectorAll('thead th')].filter(h => h.textContent.trim().split(/\\s+/).length === 1)"
    lines = (
        "h => { const r = document.createRange(); r.selectNodeContents(h); return new Set([...r.getClientRects()].map(b => b.top)).size }"
    )
    assert browser.run(f"Math.max(...{words}.map({lines}))") == 1


@pytest.mark.parametrize("page", PAGES)
def test_a_page_opens_within_a_second_and_asks_nothing_of_any_network(browser, reports, page):
    browser.requests.clear()
    assert min(browser.open(reports / page) for _ in range(3)) < 1, "the best of three: the machine may be busy"
    assert browser.requests == []
    assert browser.run("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("page", PAGES)
def test_no_script_of_a_stranger_runs_and_no_tag_of_theirs_is_there(browser, hostile, page):
    browser.dialogs.clear()
    browser.complaints.clear()
    browser.open(hostile / page)
    assert browser.run("document.body.textContent").count("<script>alert(1)</script>") > 0, "the prompts are there, as text"
    assert browser.dialogs == browser.complaints == []
    assert browser.run("document.scripts.length") == (page == "ab_vote.html")
    assert browser.run("document.querySelectorAll('[onerror], b > i, img:not([src^=\"data:image/\"])').length") == 0


def test_a_script_that_got_in_would_not_run(browser, reports, tmp_path):
    for page in PAGES:
        spoilt = tmp_path / page
        spoilt.write_text((reports / page).read_text().replace("</main>", "<script>document.title='hit'</script></main>"))
        browser.open(spoilt)
        assert browser.run("document.title") != "hit"


@pytest.mark.parametrize("page", PAGES)
def test_the_night_is_dark_and_the_day_is_light(browser, reports, page):
    light = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    browser.open(reports / page, dark=True)
    night = browser.run(light)
    browser.open(reports / page)
    assert night < 150 < 600 < browser.run(light)


@pytest.mark.parametrize("page", PAGES)
def test_headings_follow_each_other_and_everything_has_a_name(browser, reports, page):
    browser.open(reports / page)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true })")
    levels = [int(tag[1]) for tag in browser.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => h.tagName)")]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    nodes = browser.tell("Accessibility.getFullAXTree")["nodes"]
    roles = [n["role"]["value"] for n in nodes if not n["ignored"]]
    nameless = {n["role"]["value"] for n in nodes if not n["ignored"] and not n.get("name", {}).get("value")}
    assert roles.count("main") == 1 and not nameless & {"link", "button", "image", "img", "textbox", "progressbar", "navigation"}
    named = "[...document.querySelectorAll('[tabindex=\"0\"]')].every(e => e.ariaLabel.length > 5)"
    assert browser.run(named), "what the keyboard reaches, to scroll it, says what it is"


def test_the_contents_lead_to_their_sections_and_the_keyboard_sees_where_it_is(browser, reports):
    browser.open(reports / "index.html")
    names = browser.run("[...document.querySelectorAll('nav a')].map(a => a.hash)")
    assert len(names) > 5 and all(browser.run(f"document.querySelector('{name}') !== null") for name in names)
    browser.press("Tab")
    assert browser.run("document.activeElement.className") == "skip"
    browser.press("Tab")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_one_pair_is_seen_at_a_time_and_the_arrow_keys_vote(browser, reports):
    count = voting(browser, reports)
    assert count == EACH * len(CATEGORIES)
    shown = "[...document.querySelectorAll('.pair')].map((p, i) => p.hidden ? -1 : i).filter(i => i >= 0)"
    places = []
    for key in ("ArrowLeft", "ArrowDown", "ArrowRight", "ArrowUp"):
        browser.press(key)
        places += browser.run(shown)
    assert places == [1, 2, 3, 2]
    assert browser.run("document.getElementById('place').textContent") == f"Pair 3 of {count}"
    assert browser.run("document.querySelector('.pair:not([hidden]) [aria-pressed=true]').dataset.vote") == "right"


def test_votes_outlive_the_page_and_are_saved_as_the_importer_reads_them(browser, reports):
    voting(browser, reports)
    browser.press("ArrowLeft", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowRight")
    browser.open(reports / "ab_vote.html")
    assert browser.run("document.getElementById('place').textContent").startswith("Pair 5 of")
    browser.run("document.getElementById('rater').value = '=Ann, \"B\"'")
    browser.run("document.getElementById('save').click()")
    file = browser.downloaded("votes.csv")
    votes, key = read_votes(file), pd.read_csv(reports / "ab_key.csv")
    file.unlink()
    assert list(votes.vote) == ["left", "tie", "left", "right"] and set(votes.rater) == {"Ann B"}
    assert list(votes.pair) == list(key.pair[:4])


def test_letters_typed_as_a_name_and_keys_held_down_are_no_votes(browser, reports):
    voting(browser, reports)
    browser.run("document.getElementById('rater').focus()")
    browser.press("ArrowLeft")
    browser.run("document.activeElement.blur()")
    browser.tell("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37, autoRepeat=True)
    assert browser.run("document.getElementById('bar').value") == 0
    browser.press("ArrowLeft")
    assert browser.run("document.getElementById('bar').value") == 1


def test_after_the_last_pair_the_page_says_so_and_back_leads_to_it(browser, reports):
    count = voting(browser, reports)
    browser.press(*["ArrowLeft"] * (count + 3))
    assert browser.run("!document.getElementById('done').hidden && document.activeElement.id === 'done'")
    assert browser.run("document.getElementById('bar').value") == count
    browser.press("ArrowUp")
    assert browser.run("document.getElementById('place').textContent") == f"Pair {count} of {count}"


def test_clicks_and_screen_readers_can_vote_as_well_and_hear_the_next_sentence(browser, reports):
    voting(browser, reports)
    browser.run("document.querySelector('.pair:not([hidden]) [data-vote=right]').click()")
    assert browser.run("document.activeElement === document.querySelectorAll('.pair h2')[1]")
    assert browser.run("document.querySelector('.pair').hidden")


def test_ten_thousand_characters_leave_the_pictures_in_sight_of_the_words(browser, hostile):
    voting(browser, hostile)
    long = f"[...document.querySelectorAll('.pair h2')].findIndex(h => h.textContent.startsWith({HOSTILE[1][:50]!r}))"
    browser.press(*["ArrowLeft"] * browser.run(long))
    assert browser.run("document.querySelector('.pair:not([hidden]) .two').getBoundingClientRect().top") < 800
