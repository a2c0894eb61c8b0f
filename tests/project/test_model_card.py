"""The model card states what config and metrics hold, and nothing else; hostile values stay plain text."""

import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.miniature_adapter import MINIATURE, random_adapter
from helpers.repository import ROOT
from huggingface_hub import ModelCard

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.model_card import NO_LICENCE, adapter_facts, model_card, one_line

METRICS = json.loads((ROOT / "reports/metrics.json").read_text())
HOSTILE = [
    "a | b",
    "a\n\n# Title\n\n---\nlicense: mit\n---\n",
    "<script>alert(1)</script>",
    "```\nx",
    "\x1b[31mred",
    "[x](javascript:y)",
    "{base}",
]


def card_of(about: dict | None = None, metrics: dict | None = None, **options) -> ModelCard:
    text = model_card(AdapterConfig(128, about=about or {}), metrics, **{"name": "some/body"} | options)
    assert text.startswith("---\n") and text.count("\n---\n") == 1
    return ModelCard(text)


def test_the_yaml_header_has_the_fields_of_the_hub():
    head = card_of({"base_model": "stable-diffusion-v1-5/stable-diffusion-v1-5"}, licence="mit", datasets=["owner/pairs"]).data.to_dict()
    assert head["base_model"] == "stable-diffusion-v1-5/stable-diffusion-v1-5" and head["base_model_relation"] == "adapter"
    assert head["license"] == "mit" and head["datasets"] == ["owner/pairs"] and "arxiv:2305.05189" in head["tags"]
    assert head["pipeline_tag"] == "text-to-image" and head["library_name"] == "sur-adapter"


def test_without_a_licence_the_card_says_so_and_a_local_folder_is_no_base_model_in_the_header():
    card = card_of({"base_model": MINIATURE})
    assert (card.data.license, card.data.license_name) == ("other", "not-stated") and NO_LICENCE in card.text
    assert "base_model" not in card.data.to_dict() and "datasets" not in card.data.to_dict()
    assert NO_LICENCE not in card_of(licence="apache-2.0").text


def test_every_accuracy_is_shown_with_its_interval():
    text = card_of(metrics=METRICS).text
    semantic = METRICS["semantic"]
    for arm, start in (
        ("baseline", "plain prompt, no adapter"),
        ("adapter", "plain prompt, with the adapter"),
        ("complex", "keyword prompt, no"),
    ):
        row = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
        shown = [semantic[name][arm] for name in ("action", "color", "counting", "overall")]
        assert row.split(" | ")[1:] == [
            f"{v['value']:.3f} ({v['low']:.3f} to {v['high']:.3f})" + (" |" if v is shown[-1] else "") for v in shown
        ]
    for key in ("gap_closed", "difference", "on_complex"):
        assert f"{semantic[key]['value']:.3f} ({semantic[key]['low']:.3f} to {semantic[key]['high']:.3f})" in text
    counts = METRICS["counts"]
    assert f"{counts['prompts']} prompts, {counts['seeds']} seeds per prompt, {counts['pictures']} images" in text
    assert "no metric got worse" in text


def test_what_was_not_measured_is_left_out():
    assert "## Results" not in card_of().text and "## Results" not in card_of(metrics={"semantic": {}, "human": 3}).text
    partial = {"semantic": {"overall": {"adapter": {"value": 0.5}}, "gap_closed": {"value": float("nan")}}, "quality": {"regressed": 1}}
    text = card_of(metrics=partial).text
    assert "| plain prompt, with the adapter | 0.500 |" in text and "no adapter |" not in text
    assert "Share of the gap" not in text and "CLIP" not in text and "seeds per prompt" not in text and "it got worse" in text


def test_the_code_of_the_card_runs(tmp_path, monkeypatch):
    folder = random_adapter(tmp_path / "adapter")
    text = model_card(SURAdapter.from_pretrained(folder).config, METRICS, name=str(folder))
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code.replace('ball of yarn")', 'ball of yarn", num_inference_steps=2)'), names)
    assert names["image"].size == (64, 64) and "encode_prompt" not in vars(names["pipe"])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_stay_plain_text(hostile):
    about = {"base_model": hostile, "llm": hostile, "layers": [hostile], "data": hostile, "loss": {"prompt": hostile, "w_llm": hostile}}
    figures = {"semantic": {hostile: {"adapter": {"value": 0.5}}}, "counts": {"prompts": hostile, "seeds": 1, "pictures": 1}}
    card, harmless = (
        card_of(about, figures, name=hostile),
        card_of({"base_model": "x"} | dict.fromkeys(("llm", "data"), "x"), figures | {"counts": {}}),
    )
    assert yaml.safe_load(card.content.split("\n---\n")[0].removeprefix("---\n")) == harmless.data.to_dict()
    assert re.findall(r"^#.*", card.text, re.M)[1:] == re.findall(r"^#.*", harmless.text, re.M)[1:]  # all headings except the title
    outside = re.sub(r"^```python\n.*?^```$", "", card.text, flags=re.S | re.M)
    assert "<script" not in outside and "\x1b" not in card.text and "[x](" not in outside and "```" not in outside
    for row in re.findall(r"^\|.*\|$", outside, re.M):
        assert len(re.findall(r"(?<!\\)\|", row)) == 3
    compile(re.search(r"^```python\n(.*?)^```$", card.text, re.S | re.M).group(1), "card", "exec")


def test_an_impossible_licence_or_data_set_is_refused():
    with pytest.raises(ValueError, match="the licence 'mit\\\\n---' is not an identifier of the hub: give one such as mit"):
        card_of(licence="mit\n---")
    with pytest.raises(ValueError, match="the data set 'a/b/c' cannot be a name on the hub: give owner/name"):
        card_of(datasets=["owner/pairs", "a/b/c"])


def test_facts_are_those_of_the_config_and_unknown_ones_are_left_out():
    about = {"base_model": "a/b", "llm": "c/d", "layers": ["layer_6", "layer_7"], "data": "e3d4", "loss": {"prompt": "kl", "w_prompt": 1.0}}
    facts = adapter_facts(AdapterConfig(64, teacher_width=192, about=about | {"train": {"steps": 10, "batch_size": 8, "lr": 0.1}}))
    expected = {"base model": "a/b", "LLM": "c/d", "LLM layers": "layer_6, layer_7", "LLM width": "192", "data": "e3d4", "width": "64"}
    assert (
        expected.items() <= facts.items()
        and facts["losses"] == "prompt loss kl, prompt × 1.0"
        and facts["training"] == "steps 10, batch size 8, lr 0.1"
    )
    assert list(adapter_facts(AdapterConfig(64))) == ["base model", "variant", "width", "depth, heads", "scale"]
    for invalid in ({"loss": 3, "train": [1], "layers": "all"}, "words"):
        assert adapter_facts(AdapterConfig(64, about=invalid))["base model"] == "unknown"


def test_one_line_has_no_line_break_and_no_control_character():
    assert one_line("a\n\tb\x1b[2J\u202ec  d") == "a b [2J c d" and one_line(0.5) == "0.5" and one_line(Path("x")) == "x"
