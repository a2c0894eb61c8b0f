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

from miniature.scenes import CATEGORIES
from sur_adapter.evaluation.confusion import confusion_matrix, count_matrix, requested_count
from sur_adapter.evaluation.sample_selection import select_samples
from sur_adapter.reporting.charts import bar_chart, interval_charts, line_chart, strength_chart
from sur_adapter.reporting.headline import headline, worse_metrics
from sur_adapter.reporting.html import MAX_LENGTH, isolate, number, percent, signed, span, with_minus_signs
from sur_adapter.reporting.provenance import licence
from sur_adapter.reporting.report import SECTIONS, report_page

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
    said = headline({"semantic": semantic, "quality": {}}, {"semantic.gap_closed": "no keyword prompts"})
    assert said["verdict"] == verdict and said["gap"] is None and said["gap_note"] == "no keyword prompts"
    assert said["title"] == f"Plain prompts: 61 % of the images are right without the adapter, {61 + 50 * (low + high):.0f} % with it"


def test_without_a_judge_the_headline_has_no_figure():
    said = headline({"quality": {}}, {"semantic": "evaluate.judge is null"})
    assert not re.search(r"\d", said["title"]) and said["verdict"] == "evaluate.judge is null"


@pytest.mark.parametrize(("value", "text"), [(3.4, "+3"), (-3.4, "−3"), (-0.4, "0"), (0.0, "0")])
def test_numbers_have_a_proper_minus_sign(value, text):
    assert signed(value) == text


def test_no_number_of_the_report_has_a_hyphen_for_a_minus_sign():
    assert (number(-1.25, ".1f"), number(-0.2), percent(-0.2)) == ("−1.2", "0", "−20 %")
    assert (span(-20, 115), span(81, 104), span(-0.5, -0.25, ".2f")) == ("−20 to 115", "81–104", "−0.50 to −0.25")
    charts = strength_chart([(-1, 0.5, 0.4, 0.6), (1, 0.7, 0.6, 0.8)], "Accuracy", "scale") + line_chart(
        [(1, -0.5), (2, 1e-5)], "loss", "loss"
    )
    assert not re.search(r"(?<!\w)-\d", "".join(Reader(charts).words)) and "−0.5" in charts
    note = "complex − baseline is -0.003 over 24 prompts (-.5), by clip-2 of 2026-01-02"
    assert with_minus_signs(note) == "complex − baseline is −0.003 over 24 prompts (−.5), by clip-2 of 2026-01-02"


def test_the_notes_have_proper_minus_signs(tmp_path):
    finished = FinishedRun(tmp_path, right=RIGHT | {"complex": 1})
    finished.run(clip=None)
    assert "complex − baseline is −0.125 over" in finished.notes()["semantic.gap_closed"]
    visible = "".join(Reader((finished.reports / "index.html").read_text().split("</style>")[1]).words)
    assert "complex − baseline is −0.125 over" in visible and not re.search(r"(?<![\w.])-\d", visible)


LESS_DIVERSE = {"baseline": 0.074, "adapter": 0.052, "complex": 0.053}


def test_a_fall_of_diversity_is_in_the_headline_and_beside_the_metrics():
    page = small_report(numbers={"diversity": LESS_DIVERSE})
    change = "diversity 0.052 instead of 0.074 (−30 %; keyword prompts 0.053)"
    head, rest = page.split("</header>")
    assert f"<b>Worse with the adapter:</b> {change}." in head and change in rest
    assert not re.search("no (measure|quality|image metric)", page, re.I)


def test_without_a_fall_the_headline_names_no_metric():
    page = small_report(numbers={"diversity": {"baseline": 0.05, "adapter": 0.06}})
    assert "Worse" not in page and page.count("No image metric is worse with the adapter.") == 1


@pytest.mark.parametrize(
    ("metrics", "worse"),
    [
        ({"diversity": {"baseline": 2.0, "adapter": 1.0}}, ["diversity 1.0 instead of 2.0 (−50 %)"]),
        ({"clip_score": {"baseline": 80.0, "adapter": 70.0, "difference": {"high": -1.0}}}, ["clip score 70.0 instead of 80.0 (−12 %)"]),
        ({"clip_score": {"baseline": 80.0, "adapter": 79.0, "difference": {"high": 0.5}}}, []),
        (
            {"quality": {"iqa": {"baseline": 0.4, "adapter": 0.2, "difference": {"high": 0.1}, "regressed": 1}}},
            ["iqa 0.200 instead of 0.400 (−50 %)"],
        ),
        ({"distance": {"cmmd": {"baseline": 1.0, "adapter": 1.5}}}, ["distance cmmd 1.5 instead of 1.0 (+50 %)"]),
        ({"distance": {"cmmd": {"baseline": 1.0, "adapter": 0.5}}}, []),
    ],
)
def test_a_metric_is_worse_if_its_interval_or_its_mean_is(metrics, worse):
    assert worse_metrics({"quality": {"regressed": 0}} | metrics) == worse


def test_the_headline_names_the_other_sets():
    block = {arm: {"overall": {"value": value, "low": 0.0, "high": 1.0}} for arm, value in (("baseline", 0.07), ("adapter", 0.65))}
    test = {"value": 0.5, "low": 0.4, "high": 0.6, "p": 0.01}
    page = small_report(numbers={"sets": {"two_words": block | {"counts": {"prompts": 9}, "difference": test}}})
    head = " ".join("".join(Reader(page.split("</style>")[1].split("</header>")[0]).words).split())
    assert "Other sets of prompts, without and with the adapter: two words 7 % → 65 %." in head


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
    assert len(images) >= 18 * 6 and all(p.startswith(tuple(RIGHT)) and "correct" in p for p in images)
    assert len(charts) >= 4 and all(charts)


def test_each_row_shows_every_arm_on_one_seed(page):
    articles = re.findall(r"<article .*?</article>", page, re.S)
    assert len(articles) == 3 * 2 * len(CATEGORIES)
    for article in articles:
        alts = re.findall(r'alt="(\w+), seed (\d)', article)
        assert [arm for arm, _ in alts] == list(RIGHT) and len({seed for _, seed in alts}) == 1


def test_the_page_has_a_dark_mode_and_a_phone_layout(page):
    assert "prefers-color-scheme:dark" in page and 'name="viewport"' in page and "max-width:560px" in page


def test_funnel_training_and_limitations_are_shown(page):
    text = "".join(Reader(page).words)
    for word in ("dropped: near duplicate", "18 train", "gradient norm", "The unit is the prompt", "p-values", "a-model-of-a-long-name"):
        assert word in text, word


def test_sections_are_in_the_order_in_which_they_are_read():
    names = ["accuracy", "random", "best", "worst", "strength", "confusion", "training", "funnel", "limitations"]
    assert [name for name in SECTIONS if name in names] == names and list(SECTIONS)[0] == names[0] and list(SECTIONS)[-1] == names[-1]


def without_details(page: str) -> str:
    """The page without what is folded."""
    while "<details>" in page:
        page = re.sub(r"<details>(?:(?!<details>).)*?</details>", "", page, flags=re.S)
    return page


def test_detail_is_closed_until_it_is_asked_for(page):
    assert "<details open" not in page
    shown = without_details(page)
    for text in ("dropped: near duplicate", "prompts better / same / worse", "sharpness", "gradient norm", "evaluate.bootstrap_resamples"):
        assert text in page and text not in shown, text
    for text in ("gap closed", "pairs were kept", "diversity", "18 train", "confusion", "validation"):
        assert text in shown, text


def test_a_licence_is_shown_once(page):
    card = "## Sources and licences\n\n| source | licence |\n| --- | --- |\n| a web site | CC0 of the site |\n\n## NSFW\n\nnone\n"
    settings = {"models": {"diffusion": "someone/diffusion", "llm": "someone/llm", "blip": {"model": "someone/llm"}}}
    text = small_report(settings=settings, data_card=card)
    assert text.count("see its model card on the hub") == 1 and text.count("CC0 of the site") == 1
    assert text.count("<summary>Licences of models and data</summary>") == 1
    assert "CC0" not in text.split("<summary>Data card</summary>")[1] and "NSFW" in text.split("<summary>Data card</summary>")[1]


def test_every_rule_of_the_style_is_used(page):
    templates = ROOT / "sur_adapter/reporting/templates"
    markup = "".join(file.read_text() for file in templates.rglob("*.html")) + (ROOT / "sur_adapter/reporting/charts.py").read_text()
    names = set(re.findall(r"\.([a-z][a-z_-]*)(?=[^{}]*\{)", re.sub(r"\{[^{}]*\}", "{}", (templates / "report.css").read_text())))
    assert {name for name in names if not name.startswith("arm-") and not re.search(rf'["= ]{name}[" ]', markup)} == set()


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
    assert line_chart([], "loss", "loss") == "" and line_chart([(1, float("nan"))], "loss", "loss") == ""
    assert "<path" in line_chart([(50, 0.5)], "loss", "loss") and bar_chart({}, "none") and bar_chart({"a": 0}, "none")


def test_names_and_titles_of_charts_are_escaped():
    attack = '"><script>alert(7)</script>'
    charts = [
        line_chart([(1, 0.5)], attack, attack),
        bar_chart({attack: 1}, attack, (attack,)),
        *interval_charts({attack: {attack: (0.5, 0.4, 0.6)}}, attack),
    ]
    for chart in charts:
        assert {tag for tag, _ in Reader(chart).tags} <= {"svg", "title", "text", "line", "path", "rect", "circle", "g"}
        assert "alert(7)" in "".join(Reader(chart).words)


def test_y_axes_have_labels():
    charts = {
        "accuracy": strength_chart([(0, 0.5, 0.4, 0.6)], "Accuracy", "adapter scale"),
        "norm": line_chart([(1, 2)], "gradient norm", "norm"),
    }
    for label, chart in charts.items():
        assert re.findall(r"<text [^>]*rotate\(-90\)[^>]*>([^<]*)<", chart) == [label]


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
    assert "Models, settings and data" in titles and "Data card" not in small_report()


def test_the_strength_chart_is_shown_if_there_is_a_sweep():
    rows = {x: {"value": v, "low": v - 0.1, "high": v + 0.1} for x, v in (("1", 0.8), ("0", 0.5), ("0.5", 0.7))}
    page = small_report(numbers={"strength": rows})
    assert SECTIONS["strength"] in page and 'aria-label="Accuracy by adapter scale: 50% at 0, 80% at 1"' in page
    assert [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', page)] == [60, 220, 380]


def report_of_samples(table: pd.DataFrame, category: str = "action", **keys: list[str]) -> str:
    """A report with the samples `keys`: ids of prompts by section."""
    prompts = {name: {"prompt": f"the sentence {name}", "category": category} for name in table.id}
    images = {
        (row.arm, row.id, row.seed): encode(Image.new("RGB", (64, 64), "white" if row.shown else "red")) for row in table.itertuples()
    }
    samples = {name: [(key, 0) for key in keys.get(name, [])] for name in ("random", "best", "worst")}
    return report_page(PLAIN, {}, table.assign(text=""), prompts, samples, images, funnel={}, history=[], config={})


def section(page: str, name: str) -> str:
    return page.split(f"{SECTIONS[name]}</h2>")[1].split("</section>")[0]


@pytest.mark.parametrize("name", ["random", "best", "worst"])
def test_rows_without_a_difference_are_folded(name):
    page = report_of_samples(judged(won=(0, 1), both=(1, 1)), **{name: ["both", "won"]})
    shown, folded = section(page, name).split("1 of 2 rows have no difference between the arms")
    assert "the sentence won" in shown and "the sentence both" not in shown and "the sentence both" in folded
    assert "image-rendering:pixelated" in shown, "small images are enlarged without smoothing"


def test_without_a_judge_rows_of_equal_images_are_folded():
    table = judged(a=(0, 1), b=(1, 1)).assign(shown=float("nan"))
    folded = section(report_of_samples(table, random=["a", "b"]), "random").split("2 of 2 rows")[1]
    assert "the sentence a" in folded and "the sentence b" in folded, "all images of this table are white or red alike"


def test_one_improvement_of_each_category_is_shown_at_once():
    page = section(report_of_samples(judged(a=(0, 1), b=(0, 1), same=(1, 1)), best=["a", "b", "same"]), "best")
    assert "the sentence a" in without_details(page) and "the sentence b" not in without_details(page)
    assert "1 more of the same categories" in page and "1 of 3 rows have no difference" in page and "the sentence b" in page


def test_rows_in_which_the_adapter_fails_come_first_under_failures():
    page = section(report_of_samples(judged(good=(1, 1), won=(0, 1), lost=(1, 0)), worst=["good", "won", "lost"]), "worst")
    places = [page.index(f"the sentence {name}") for name in ("lost", "won", "good")]
    assert places == sorted(places) and "the sentence good" not in without_details(page)


def test_human_votes_are_shown_with_their_interval():
    answers = {"adapter": 21, "baseline": 3, "both_right": 9, "both_wrong": 5, "tie": 2}
    human = {"win_rate": {"value": 0.7, "low": 0.6, "high": 0.8}, "votes": 40, "raters": 2, "pairs": 20, "agreement": -0.5}
    page = small_report(numbers={"human": human | {"answers": answers}})
    assert "<b>70 %</b> <small>60–80</small>" in page and "40 / 2 / 20" in page and "α</th><td>−0.50" in page
    labels = ("adapter is better", "the other is better", "both right", "both wrong", "neither is better")
    for label, count in zip(labels, answers.values(), strict=True):
        assert f'<th scope="row">{label}</th><td>{count}</td>' in page


def test_human_votes_against_the_keyword_prompt_alone_are_shown():
    human = {"against_complex": {"win_rate": {"value": 0.5, "low": 0.4, "high": 0.6}, "votes": 4, "raters": 1, "pairs": 4}}
    page = small_report(numbers={"human": human})
    assert SECTIONS["human"] in page and "4 / 1 / 4" in page


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
        .split("Licences of models and data</summary>")[1]
        .split("</details>")[0]
    )
    tags, words = Reader(page).tags, "".join(Reader(page).words)
    assert "a|b" in words and "<script>alert(6)</script>" in words and "script" not in {tag for tag, _ in tags}
    assert page.count("<tr>") == 2 and "<h3><bdi>Sources and licences" in page
