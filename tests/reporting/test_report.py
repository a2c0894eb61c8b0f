"""The report is self-contained, shows the metrics, and escapes all text from outside."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from helpers.finished_run import EACH, PROMPTS, RIGHT, SEEDS, FinishedRun
from helpers.repository import ROOT
from helpers.small_models import encode
from PIL import Image

from sur_adapter.evaluation.confusion import confusion_matrix, count_matrix, requested_count
from sur_adapter.evaluation.sample_selection import select_samples
from sur_adapter.reporting.charts import bar_chart, interval_chart, line_chart
from sur_adapter.reporting.html import MAX_LENGTH, isolate, signed
from sur_adapter.reporting.provenance import licence
from sur_adapter.reporting.report import SECTIONS, headline, report_page

ATTACKS = [
    "<script>alert(1)</script> a red circle",
    '" onerror="alert(2)" x="',
    "</style></svg></title><img src=x onerror=alert(3)>",
    "\u202egnp.exe\u202c a \u2066circle",
    "&lt;b&gt; {0} $name %s {{x}}",
    "null\u0000 and \u001b[31m and \u200d",
    "三个红色的圆 ثلاث دوائر 🟥",
]
HOSTILE = [" ".join(ATTACKS), "a" * 10_000]
HOSTILE_COUNTS = {"in": 3, "kept": 2, "dropped": {"<script>alert(5)</script>": 1}}


class Reader(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    finished = FinishedRun(tmp_path_factory.mktemp("run"))
    finished.run()
    return (finished.reports / "index.html").read_text(encoding="utf-8")


def hostile_run(folder: Path) -> FinishedRun:
    """A finished and evaluated run with hostile prompts, config and funnel."""
    rows = [p | {"prompt": HOSTILE[i % 2], "complex_prompt": HOSTILE[1 - i % 2]} for i, p in enumerate(PROMPTS)]
    finished = FinishedRun(folder, rows=rows)
    (finished.adapter / "config.json").write_text(json.dumps({"about": {"<i>": "<script>alert(4)</script>", "llm": "a/" + "a" * 10_000}}))
    (finished.reports / "funnel.json").write_text(json.dumps({"in": 3, "by_source": {"<b>source</b>" * 99: HOSTILE_COUNTS}}))
    finished.run()
    return finished


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    return (hostile_run(tmp_path_factory.mktemp("hostile")).reports / "index.html").read_text(encoding="utf-8")


def test_the_result_comes_first(page):
    head = page.split("</header>")[0]
    assert re.search(r"Plain prompts: \d+ % of the images are right without the adapter, \d+ % with it \(keyword prompts: \d+ %\)", head)
    assert "<b>67 %</b>" in head and "95 % interval" in head and "One training; 24 prompts × 2 seeds" in head


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.1, 0.3, "The adapter helps: +20 points, 95 % interval +10 to +30."),
        (-0.1, 0.02, "No difference is shown: −4 points, 95 % interval −10 to +2."),
        (-0.37, -0.17, "The adapter does harm: −27 points, 95 % interval −37 to −17."),
    ],
)
def test_the_headline_says_whether_the_adapter_helps(low, high, verdict):
    overall = {"baseline": {"value": 0.61}, "adapter": {"value": 0.61 + (low + high) / 2}}
    semantic = {"overall": overall, "difference": {"value": (low + high) / 2, "low": low, "high": high}, "gap_closed": {}}
    said = headline({"semantic": semantic}, {"semantic.gap_closed": "no keyword prompts"})
    assert said["verdict"] == verdict and said["gap"] is None and said["gap_note"] == "no keyword prompts"
    assert said["title"] == f"Plain prompts: 61 % of the images are right without the adapter, {61 + 50 * (low + high):.0f} % with it"


def test_without_a_judge_the_headline_has_no_figure():
    said = headline({}, {"semantic": "evaluate.judge is null"})
    assert not re.search(r"\d", said["title"]) and said["verdict"] == "evaluate.judge is null"


@pytest.mark.parametrize(("value", "text"), [(3.4, "+3"), (-3.4, "−3"), (-0.4, "0"), (0.0, "0")])
def test_numbers_have_a_proper_minus_sign(value, text):
    assert signed(value) == text


def test_the_report_uses_no_network_and_no_script(page, hostile):
    for text in (page, hostile):
        tags = Reader(text).tags
        assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "form", "base"}
        assert all(attrs.get("src", "data:image/").startswith("data:image/") for _, attrs in tags)
        assert not any(key.startswith("on") for _, attrs in tags for key in attrs)
        assert all(attrs.get("href", "#").startswith("#") for _, attrs in tags), "all links are within the page"
        assert "default-src 'none'" in text and "script-src" not in text
        assert "url(" not in text and "@import" not in text


def test_hostile_prompts_are_shown_as_text(hostile):
    text = "".join(Reader(hostile).words)
    assert "<script>alert(1)</script> a red circle" in text and 'onerror="alert(2)"' in text and "三个红色的圆" in text
    assert not any(c in hostile for c in "\u202e\u202c\u2066\u0000\u001b")
    assert "a" * MAX_LENGTH + "…" in text and "a" * (MAX_LENGTH + 1) not in text


def test_hostile_names_in_config_and_funnel_are_shown_as_text(hostile):
    text = "".join(Reader(hostile).words)
    assert "alert(4)" in text and "alert(5)" in text and "<b>source</b>" in text


def test_every_open_tag_is_closed(page, hostile):
    for text in (page, hostile):
        for tag in ("section", "article", "figure", "table", "svg", "details", "bdi", "div", "g"):
            assert len(re.findall(rf"<{tag}[ >]", text)) == text.count(f"</{tag}>"), tag


def test_every_image_and_chart_has_an_alternative_text(page):
    tags = Reader(page).tags
    images = [attrs["alt"] for tag, attrs in tags if tag == "img"]
    charts = [attrs["aria-label"] for tag, attrs in tags if tag == "svg"]
    assert len(images) >= 24 * 3 and all(p.startswith(tuple(RIGHT)) and "correct" in p for p in images)
    assert len(charts) >= 4 and all(charts)


def test_each_row_shows_every_arm_on_one_seed(page):
    for article in re.findall(r"<article>.*?</article>", page, re.S):
        alts = re.findall(r'alt="(\w+), seed (\d)', article)
        assert [arm for arm, _ in alts] == list(RIGHT) and len({seed for _, seed in alts}) == 1


def test_the_page_has_a_dark_mode_and_a_phone_layout(page):
    assert "prefers-color-scheme:dark" in page and 'name="viewport"' in page and "max-width:560px" in page


def test_funnel_training_and_limitations_are_shown(page):
    text = "".join(Reader(page).words)
    for word in ("dropped: near duplicate", "18 train", "gradient norm", "The unit is the prompt", "p-values", "a-model-of-a-long-name"):
        assert word in text, word


def judged(**gains: tuple[float, float]) -> pd.DataFrame:
    """Two arms; (shown by baseline, shown by adapter) of each prompt."""
    rows = [
        {"id": name, "category": "color", "arm": arm, "seed": k, "shown": shown[i], "clip_score": 30.0}
        for name, shown in gains.items()
        for i, arm in enumerate(("baseline", "adapter"))
        for k in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_best_samples_are_gains_and_worst_samples_are_losses():
    rows = select_samples(judged(same=(1, 1), lost=(1, 0), won=(0, 1), never=(0, 0)), per_category=1)
    assert [i for i, _ in rows["best"]] == ["won"] and [i for i, _ in rows["worst"]] == ["lost"]


def test_among_equal_gains_the_worst_is_incorrect_in_both_arms():
    rows = select_samples(judged(same=(1, 1), never=(0, 0)), per_category=1)
    assert [i for i, _ in rows["worst"]] == ["never"]


def test_no_prompt_is_shown_twice_in_one_section():
    for keys in select_samples(judged(a=(0, 1), b=(1, 1), c=(1, 0)), per_category=3).values():
        assert sorted(i for i, _ in keys) == ["a", "b", "c"]


def test_worst_samples_are_ordered_by_their_worst_seed():
    table = judged(a=(1, 0), b=(1, 0), c=(0, 1))
    table.loc[(table.id == "a") & (table.seed == 1), "shown"] = 1.0
    table.loc[(table.id == "a") & (table.seed == 0) & (table.arm == "adapter"), "clip_score"] = 10.0
    assert [i for i, _ in select_samples(table, per_category=2)["worst"]] == ["a", "b"]


def test_every_category_has_its_own_samples():
    table = pd.concat([judged(a=(0, 1), b=(1, 0)), judged(c=(0, 1), d=(1, 0)).assign(category="counting")])
    rows = select_samples(table, per_category=1)
    assert [i for i, _ in rows["best"]] == ["a", "c"] and [i for i, _ in rows["worst"]] == ["b", "d"]
    assert [i < "c" for i, _ in rows["random"]] == [True, False]


def test_random_samples_depend_only_on_the_seed():
    table = judged(**{f"p{i}": (0, i % 2) for i in range(20)})
    shuffled = table.sample(frac=1, random_state=1)
    assert select_samples(table, 3)["random"] == select_samples(shuffled, 3)["random"] != select_samples(table, 4)["random"]


def test_samples_are_selected_without_a_judge_and_without_clip():
    table = judged(a=(0, 1), b=(1, 1)).assign(shown=float("nan"), clip_score=float("nan"))
    assert all(len(rows) == 2 for rows in select_samples(table).values())


def test_isolate_keeps_joiners_and_removes_bidi_and_control_characters():
    assert isolate("a\u200db\u202ec\u0000<") == "<bdi>a\u200dbc&lt;</bdi>"


def test_charts_of_little_data_do_not_fail():
    assert line_chart([], "loss") == "" and line_chart([(1, float("nan"))], "loss") == ""
    assert "<path" in line_chart([(50, 0.5)], "loss") and bar_chart({}, "none") and bar_chart({"a": 0}, "none")


def test_names_and_titles_of_charts_are_escaped():
    attack = '"><script>alert(7)</script>'
    charts = [
        line_chart([(1, 0.5)], attack),
        bar_chart({attack: 1}, attack, (attack,)),
        interval_chart({attack: {attack: (0.5, 0.4, 0.6)}}, attack),
    ]
    for chart in charts:
        assert {tag for tag, _ in Reader(chart).tags} <= {"svg", "title", "text", "line", "path", "rect", "circle", "g"}
        assert "alert(7)" in "".join(Reader(chart).words)


def luminance(color: str) -> float:
    """Relative luminance of #rgb or #rrggbb (WCAG 2)."""
    digits = color[1:] if len(color) == 7 else "".join(2 * c for c in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("mode", ["day", "night"])
def test_text_colors_have_enough_contrast_in_light_and_dark_mode(mode):
    style = (ROOT / "sur_adapter/reporting/templates/base.css").read_text()
    part = style.split("@media (prefers-color-scheme:dark)")[mode == "night"].split("}}" if mode == "night" else "}")[0]
    colors = {name: luminance(value) for name, value in re.findall(r"--(\w+):(#\w+)", part)}
    for name in ("ink", "soft", "good", "bad", "baseline", "adapter", "complex", "complex_adapter", "expansion", "rewrite"):
        for ground in ("paper", "card"):
            low, high = sorted((colors[name], colors[ground]))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)


def test_the_count_matrix_has_requested_rows_and_counted_columns():
    cells = [(1, 1), (1, 1), (2, 1), (2, 9), (3, 0), (float("nan"), 1), (2, float("nan"))]
    matrix = count_matrix(pd.DataFrame([{"arm": "adapter", "asked": a, "counted": c} for a, c in cells]), "adapter")
    assert matrix.loc[1, 1] == 2 and matrix.loc[2, 1] == 1 and matrix.loc[2, 4] == 1 and matrix.loc[3, 0] == 1
    assert list(matrix.columns) == [0, 1, 2, 3, 4] and matrix.to_numpy().sum() == 5


def test_a_prompt_for_several_classes_requests_no_single_number():
    one, two = ({"class": "circle", "count": 3}, {"class": "star", "count": 1})
    assert requested_count({"category": "counting", "include": [one]}) == 3
    for prompt in ({"category": "counting", "include": [one, two]}, {"category": "color", "include": [one]}, {"category": "counting"}):
        assert requested_count(prompt) != requested_count(prompt), "NaN"


def matrices(page: str, kind: str) -> list[list[list[str]]]:
    """The cells of the matrices of a kind, a list for each arm: [class, number]."""
    section = page.split(f"{SECTIONS['confusion']}</h2>")[1].split("</section>")[0].split(f"<h3>{kind}</h3>")[1].split("<h3>")[0]
    return [re.findall(r'class="(cell[^"]*)"[^>]*>\s*(\d+)<', part) for part in section.split("<h4>")[1:]]


@pytest.mark.parametrize(("kind", "prompts"), [("Number", EACH), ("Color", len(PROMPTS)), ("Pose", EACH)])
def test_correct_images_are_on_the_diagonal(page, kind, prompts):
    baseline, adapter = matrices(page, kind)
    right = [sum(int(n) for name, n in cells if name == "cell right") for cells in (baseline, adapter)]
    of_categories = prompts // EACH
    assert right[1] >= of_categories * RIGHT["adapter"] * SEEDS > 0 and right[0] >= of_categories * RIGHT["baseline"] * SEEDS
    assert [sum(int(n) for _, n in cells) for cells in (baseline, adapter)] == [prompts * SEEDS] * 2


def test_each_wrong_image_has_one_kind_of_error(page):
    section = page.split(f"{SECTIONS['errors']}</h2>")[1].split("</section>")[0]
    rows = [list(map(int, re.findall(r"<td>(\d+)</td>", row))) for row in section.split("<tbody>")[1].split("<tr>")[1:]]
    arms = ["baseline", "adapter", "complex", "expansion"]
    assert [sum(column) for column in zip(*rows, strict=True)] == [3 * SEEDS * (EACH - RIGHT[arm]) for arm in arms]
    assert [sum(row) for row in rows] == sorted((sum(row) for row in rows), reverse=True)


def test_a_confusion_matrix_has_the_asked_names_first():
    rows = [("red", "red"), ("red", "none"), ("blue", "red"), (None, "red")]
    table = pd.DataFrame([{"arm": "adapter", "asked_color": asked, "seen_color": seen} for asked, seen in rows])
    matrix = confusion_matrix(table, "adapter", "color")
    assert list(matrix.index) == ["blue", "red"] and list(matrix.columns) == ["blue", "red", "none"]
    assert matrix.to_numpy().tolist() == [[0, 1, 0], [0, 1, 1]]


PLAIN = {"quality": {"regressed": 0}, "counts": {"prompts": 1, "seeds": 1}}


def small_report(**more) -> str:
    """A report with almost no data, and with `more`."""
    nothing = {"random": [], "best": [], "worst": []}
    metrics, notes = PLAIN | more.pop("numbers", {}), more.pop("notes", {})
    return report_page(metrics, notes, judged(a=(0, 1)), {}, nothing, {}, **{"funnel": {}, "history": [], "config": {}} | more)


def test_every_text_that_reaches_a_template_is_escaped():
    attack = '"><script>alert(8)</script>'
    quality = {attack: {"baseline": 1.0, "adapter": 1.0, "regressed": 1}, "regressed": 1}
    card = f"# The data\n\n## {attack}\n\n| a |\n| --- |\n| b |\n"
    funnel, history = {"by_split": {attack: 1}}, [{"step": 1, attack: 0.5}]
    page = small_report(numbers={"quality": quality}, notes={"semantic": attack}, funnel=funnel, history=history, data_card=card)
    assert "script" not in {tag for tag, _ in Reader(page).tags}
    assert "".join(Reader(page).words).count("alert(8)") >= 7, "headline, metric, regression, chart, split, heading, caption, note"


def test_sections_without_data_are_left_out():
    titles = re.findall("<h2[^>]*>(.*?)</h2>", small_report())
    assert not {SECTIONS[name] for name in ("accuracy", "strength", "human", "errors", "confusion")} & set(titles)
    assert "Models, settings and data" in titles and "Data and licences" not in small_report()


def test_the_strength_chart_is_shown_if_there_is_a_sweep():
    rows = {x: {"value": v, "low": v - 0.1, "high": v + 0.1} for x, v in (("1", 0.8), ("0", 0.5), ("0.5", 0.7))}
    page = small_report(numbers={"strength": rows})
    assert SECTIONS["strength"] in page and 'aria-label="Accuracy by adapter scale: 50% at 0, 80% at 1"' in page
    assert [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', page)] == [44, 174, 304]


def test_samples_without_a_difference_are_folded():
    table = judged(won=(0, 1), both=(1, 1))
    prompts = {name: {"prompt": f"the sentence {name}", "category": "action"} for name in ("won", "both")}
    images = {(row.arm, row.id, row.seed): encode(Image.new("RGB", (64, 64), "white")) for row in table.itertuples()}
    keys = [("won", 0), ("both", 0)]
    samples = {"random": [], "best": keys, "worst": []}
    page = report_page(PLAIN, {}, table.assign(text=""), prompts, samples, images, funnel={}, history=[], config={})
    shown, folded = page.split(f"{SECTIONS['best']}</h2>")[1].split("</section>")[0].split("1 more without a difference")
    assert "the sentence won" in shown and "the sentence both" not in shown and "the sentence both" in folded
    assert "image-rendering:pixelated" in shown, "small images are enlarged without smoothing"


def test_human_votes_are_shown_with_their_interval():
    human = {"win_rate": {"value": 0.7, "low": 0.6, "high": 0.8}, "votes": 40, "raters": 2, "pairs": 20, "agreement": 0.5}
    page = small_report(numbers={"human": human})
    assert "<b>70 %</b>" in page and "60 % to 80 %" in page and "40 votes of 2 raters" in page and "α = 0.50" in page


def test_settings_licences_and_where_the_commit_is_recorded_are_shown(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: openrail\n---\n# A model\n")
    page = small_report(settings={"evaluate": {"clip": "someone/clip"}, "models": {"diffusion": str(tmp_path), "resolution": 64}})
    text = "".join(Reader(page).words)
    assert "openrail" in text and "see its model card" in text and "models.resolution64" in text and "dvc.lock" in text


def test_a_model_card_without_a_licence_is_reported(tmp_path):
    (tmp_path / "README.md").write_text("# A model\n")
    assert licence(str(tmp_path)) == "its model card names none"


def test_the_data_card_is_shown_as_text():
    cards = "# The data\n\n9 rows came in.\n\n## Sources and licences\n\n| source | licence |\n| --- | --- |\n"
    page = (
        small_report(data_card=cards + "| a\\|b | &lt;script&gt;alert(6)&lt;/script&gt; |\n")
        .split("the data card</summary>")[1]
        .split("</details>")[0]
    )
    tags, words = Reader(page).tags, "".join(Reader(page).words)
    assert "a|b" in words and "<script>alert(6)</script>" in words and "script" not in {tag for tag, _ in tags}
    assert page.count("<tr>") == 2 and "<h4><bdi>Sources and licences" in page
