"""Cleaning a prompt keeps the words, removes the weight syntax, and leaves plain language unchanged."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from helpers import tiny_models as tiny
from helpers.small_models import write_shards
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPTokenizer

from miniature.scenes import make
from miniature.words import complex_prompt, simple_prompt
from sur_adapter.data.prompts.cleaning import clean, count_excess_tokens, effective_prompt
from sur_adapter.data.scores import clip as clip_score
from sur_adapter.data.scores import too_long
from sur_adapter.io.shards import read_table

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "realdata"
few = settings(derandomize=True, deadline=None, max_examples=300, database=None)


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("(masterpiece:1.2), best quality", "masterpiece, best quality"),
        ("((word)), [dull], {{bright}}", "word, dull, bright"),
        ("a (red) car, (blue sky: 1.2)", "a red car, blue sky"),
        ("1girl <lora:more_details:0.5>, <hypernet:x:1> smile", "1girl, smile"),
        ("<lora:x:1>", ""),
        (r"hatsune miku \(vocaloid\), (smile:1.1)", "hatsune miku (vocaloid), smile"),
        ("[a cat:a dog:0.5] sits", "a dog sits"),
        ("[a cat::0.5] sits [in the sun:8]", "a cat sits in the sun"),
        ("a [red|blue] door, {|old|new} wall", "a red door, old wall"),
        ("a hill BREAK a tree", "a hill, a tree"),
        ("a cat :1.2 AND a dog :0.8", "a cat, a dog"),
        ("((a, (b:1.3)):1.1), [c:(d:0.5):0.2]", "a, b, d"),
        ("(1970:1.3), (16:9)", "1970, 16:9"),
        ("(x), (y),\n(z)", "x, y,\nz"),
    ],
)
def test_words_stay_and_weight_syntax_is_removed(prompt, cleaned):
    assert clean(prompt) == cleaned


@pytest.mark.parametrize(
    "prose",
    [
        "a man (old and tired), sitting on a bench",
        "the train leaves (at 10:30), says the sign; smile :)",
        "I <3 you, 2 > 1, and a < b",
        "SALT AND PEPPER on a table, black and white, give me a break",
        "a photograph, 35mm, f/1.8, 1,000 birds",
        "a bracket (that never ends, and another] that never began",
        "  blanks  at  will ,, as found ",
        "",
    ],
)
def test_plain_language_is_unchanged(prose):
    assert clean(prose) == prose


def test_a_missing_prompt_stays_missing():
    assert clean(None) is None


def test_prompts_of_the_miniature_are_unchanged():
    for seed in range(300):
        for prompt in (complex_prompt(make(seed), seed), simple_prompt(make(seed), seed)):
            assert clean(prompt) == prompt


GRAMMAR = st.sampled_from(list("()[]{}<>|:\\,. \n") + ["BREAK", " AND ", ":1.2", "<lora:", "a", "cat", "Z", "0.5", "((", "\\("])


@few
@given(st.lists(GRAMMAR | st.text(max_size=3), max_size=25).map("".join))
def test_cleaning_is_idempotent(text):
    once = clean(text)
    assert clean(once) == once and len(once) <= len(text)


COMMON = ["a", "cat,", "its", "paws;", "won't", "sit.", "Über-old", "10:30", "猫", "&", "co?", "(maybe)"]


@few
@given(st.lists(st.sampled_from(COMMON), max_size=12))
def test_sentences_with_common_punctuation_are_unchanged(parts):
    sentence = " ".join(["so", *parts])
    assert re.findall(r"[^\s(),]+", clean(sentence)) == re.findall(r"[^\s(),]+", sentence)
    if "," not in sentence and ";" not in sentence:
        assert clean(sentence) == sentence


@few
@given(st.lists(st.sampled_from(["red", "a cat", "tall", "sky"]), min_size=1, max_size=6), st.data())
def test_no_word_is_lost_under_any_weight_syntax(parts, data):
    weigh = st.sampled_from(["{}", "({})", "(({}))", "[{}]", "({}:1.3)", "({}: 0.7)", "{{{}}}", "<lora:x:1> {}", "[{}:0.5]"])
    weighed = [data.draw(weigh).format(one) for one in parts]
    assert [part.strip() for part in clean(", ".join(weighed)).split(",")] == parts


@pytest.mark.parametrize("piece", ["(", "[a:", "(a, ", "a AND ", " ", "\\", "(:1", "1", "\n,", "<a", "(a) b "])
def test_cleaning_time_is_linear_in_the_length_of_the_prompt(piece):
    start = time.process_time()
    clean("(x:" + piece * (100_000 // len(piece)) + "y), (z)")
    assert time.process_time() - start < 3  # measured: at most 0.6 s; 20 to 60 s with a quadratic algorithm


def test_models_read_the_clean_prompt_if_there_is_one():
    rows = pd.DataFrame({"complex_prompt": ["(a:1.2)", "<lora:x:1>", "(c)"], "clean_prompt": ["a", "", None]}).to_dict("records")
    assert [effective_prompt(row) for row in rows] == ["a", "", "(c)"]
    assert effective_prompt({"complex_prompt": "(d)"}) == "(d)"


def test_tokens_beyond_the_length_of_a_model_are_counted():
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / "models/miniature/stable-diffusion", subfolder="tokenizer")
    limit = tokenizer.model_max_length - 2  # start and end token
    assert len(tokenizer("red").input_ids) == 3
    assert count_excess_tokens(["red", "red " * limit, "red " * (limit + 1), "red " * (limit + 30), ""], tokenizer) == [
        0,
        0,
        1,
        30,
        0,
    ]
    assert count_excess_tokens([], tokenizer) == []


@pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real prompts is not beside this checkout")
def test_real_keyword_prompts_lose_their_weights_and_real_sentences_are_unchanged():
    pages = [json.loads(page.read_text())["items"] for page in (REAL / "civitai-api-pages").glob("*.json")]
    metas = [i["meta"] for page in pages for m in page for v in m["modelVersions"] for i in v["images"]]
    prompts = {m["prompt"] for m in metas if m and m.get("prompt")}
    cleaned = {prompt: clean(prompt) for prompt in prompts}
    assert not any(re.search(r"<lora:|\([^()]*:\s*\d\.\d+\)", result) for result in cleaned.values())
    assert sum(result != prompt for prompt, result in cleaned.items()) > len(prompts) / 4
    for name in ("color_val.txt", "numeracy_val.txt", "non_spatial_val.txt"):
        for sentence in (REAL / "t2i-compbench" / name).read_text().splitlines():
            assert clean(sentence) == sentence


def test_a_crawl_stores_the_original_prompt_and_the_clean_one(tmp_path):
    prompts = ["(a cat:1.2) <lora:x:1>", "a cat", None]
    assert write_shards(
        tmp_path, [{"source": "x", "url": f"http://x/{p}", "complex_prompt": p, "data": None, "dropped": "file missing"} for p in prompts]
    )
    table = read_table(tmp_path)
    assert list(table.complex_prompt.dropna()) == prompts[:2] and list(table.clean_prompt.dropna()) == ["a cat", "a cat"]


def test_clip_and_the_text_encoder_read_the_clean_prompt(tmp_path):
    images = [make(i).draw() for i in range(3)]
    plain = [{"complex_prompt": complex_prompt(make(i), i)} for i in range(3)]
    weighed = [{"complex_prompt": f"<lora:x:1>({t['complex_prompt']}:1.2)", "clean_prompt": t["complex_prompt"]} for t in plain]
    config = clip_score.Config(model=str(ROOT / "models/miniature/clip"), measures=("complex",))
    assert clip_score.score(images, weighed, config) == clip_score.score(images, plain, config)
    models, written = {"diffusion": str(ROOT / "models/miniature/stable-diffusion")}, []
    for i, rows in enumerate((plain, weighed)):
        pairs = pd.DataFrame(rows).assign(id=["a", "b", "c"], split="train", simple_prompt="a cat")
        tiny.extract("clip", pairs, tmp_path / str(i), models)
        written.append((tmp_path / str(i) / "train-000000.parquet").read_bytes())
    assert written[0] == written[1]


def test_the_score_too_long_counts_excess_tokens():
    limit = 38  # the miniature's CLIP reads 40 tokens, with start and end token
    texts = [
        {"complex_prompt": p, "clean_prompt": c}
        for p, c in (("red", "red"), ("red " * (limit + 5), None), ("red " * 99, "red"), (None, None))
    ]
    assert too_long.score([], texts, too_long.Config(str(ROOT / "models/miniature/clip"))) == [0.0, 5.0, 0.0, None]
    with pytest.raises(FileNotFoundError, match="scores.too_long.model is 'nowhere', where no tokenizer can be loaded"):
        too_long.score([], texts, too_long.Config("nowhere"))


def test_the_tokenizer_file_of_a_clip_counts_as_transformers_does(tmp_path):
    folder = ROOT / "models/miniature/clip"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    odd = ["", "  MASTERPIECE,\n8k's  don’t 12345", "<|endoftext|> <|startoftext|> [UNK]", "héllo 中文 🎉 ﬁ ́e", "a" * 3000]
    prompts = [*odd, *(complex_prompt(make(k), k) for k in range(200)), "red " * 99]
    counted = too_long.score([], [{"complex_prompt": p} for p in prompts], too_long.Config(str(folder)))
    assert counted == [float(n) for n in count_excess_tokens(prompts, tokenizer)] and max(counted) > 1000
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="scores.too_long.model is .*, where no tokenizer can be loaded"):
        too_long.score([], [{"complex_prompt": "red"}], too_long.Config(str(tmp_path)))


@pytest.mark.parametrize("name", ["phash", "too_long", "keywords"])
def test_a_score_without_a_model_loads_no_library_of_models(name):
    code = f"""
import sys
from PIL import Image
from stages import score
from sur_adapter.registry import load
plug_in = load("sur_adapter.data.scores", "{name}")
config = plug_in.Config(*(["models/miniature/clip"] if "{name}" == "too_long" else []))
assert len(plug_in.score([Image.new("RGB", (64, 64))], [{{"complex_prompt": "red, 8k"}}], config)) == 1
print(sorted({{"torch", "transformers", "open_clip"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
