"""Embedded prompts are read as the generator wrote them, and malformed data never raises."""

import json
import string
from io import BytesIO
from pathlib import Path

import pytest
from helpers.made_images import png, with_hidden_text, with_user_comment
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from sur_adapter.data.prompts import comfyui, embedded
from sur_adapter.data.prompts.embedded import embedded_prompts

REAL = Path(__file__).parents[3] / "shared" / "realdata"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the folder of real images is not beside this checkout")
few = settings(derandomize=True, deadline=None, max_examples=40, database=None)

# prompts in images

GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "negative": ["2", 1]}},
    "2": {"class_type": "ControlNetApplyAdvanced", "inputs": {"positive": ["3", 0], "negative": ["4", 0]}},
    "3": {"class_type": "ConditioningCombine", "inputs": {"conditioning_1": ["5", 0], "conditioning_2": ["6", 0]}},
    "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad"}},
    "5": {"class_type": "CLIPTextEncode", "inputs": {"text": ["7", 0]}},
    "6": {"class_type": "CLIPTextEncodeSDXL", "inputs": {"text_g": "a dog", "text_l": "a dog"}},
    "7": {"class_type": "PrimitiveString", "inputs": {"value": "a cat"}},
}


@pytest.mark.parametrize(
    ("chunk", "text", "expected"),
    [
        ("parameters", "a\nb (c:1.2) <lora:x:0.8>\nNegative prompt: d\ne\nSteps: 20, Size: 8x8", ("a\nb (c:1.2) <lora:x:0.8>", "d\ne")),
        ("parameters", "no settings at all", ("no settings at all", None)),
        ("parameters", "Negative prompt: only this\nSteps: 1", (None, None)),
        ("parameters", '{"prompt": "a fish", "negative_prompt": "x", "seed": 1}', ("a fish", "x")),
        ("parameters", '{"sui_image_params": {"prompt": "a swarm", "negativeprompt": "y"}}', ("a swarm", "y")),
        ("parameters", '{"prompt": ', (None, None)),
        ("invokeai_metadata", '{"positive_prompt": "p", "negative_prompt": "n"}', ("p", "n")),
        ("sd-metadata", '{"image": {"prompt": [{"prompt": "a fox [blurry]", "weight": 1.0}]}}', ("a fox", "blurry")),
        ("Dream", '"a man -- old" -s 50 -S 42 -W 512', ("a man -- old", None)),
        ("parameters", '{"Prompt": "an older fish", "Negative Prompt": "x"}', ("an older fish", "x")),
        ("parameters", json.dumps(GRAPH), ("a cat, a dog", "bad")),
        ("parameters", "a cat\nSampler: Euler, Size: 8x8, Seed: 3", ("a cat", None)),
        ("parameters", 'a cat\nSteps: 2, Hires prompt: "x\\nNegative prompt: y, Seed: 1", Size: 8x8', ("a cat", None)),
        (
            "parameters",
            "Steps: 3 of a stair\na mood: dark, light: soft\nSteps: 4",
            ("Steps: 3 of a stair\na mood: dark, light: soft", None),
        ),
        ("Comment", '{"prompt": "1girl", "uc": "lowres"}', ("1girl", "lowres")),
        ("Comment", "drawn with a pencil", (None, None)),
        ("prompt", json.dumps(GRAPH), ("a cat, a dog", "bad")),
        (
            "prompt",
            json.dumps(GRAPH | {"7": {"class_type": "X", "inputs": {"value": ["5", 0]}}, "8": {"inputs": {"x": float("nan")}}}),
            ("a dog", "bad"),
        ),
        ("prompt", json.dumps({"1": {"class_type": "KSampler", "inputs": {"positive": ["1", 0]}}}), (None, None)),
        ("prompt", "[" * 100000, (None, None)),
        ("prompt", "a plain text", (None, None)),
        ("workflow", '{"nodes": 3, "links": null}', (None, None)),
    ],
)
def test_a_prompt_in_a_text_chunk_is_read_and_malformed_text_is_not_a_prompt(chunk, text, expected):
    assert embedded_prompts(png(text={chunk: text})) == expected


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_user_comment_is_read_in_either_byte_order(kind, order):
    assert embedded_prompts(with_user_comment("eine Möwe\nNegative prompt: grau\nSteps: 3", kind, order)) == ("eine Möwe", "grau")


@pytest.mark.parametrize("tag", [0x010F, 0x0110])
def test_a_graph_in_the_exif_make_or_model_of_a_webp_is_read(tag):
    exif, buffer = Image.Exif(), BytesIO()
    exif[tag] = "Prompt:" + json.dumps(GRAPH)
    Image.new("RGB", (8, 8)).save(buffer, "webp", exif=exif)
    assert embedded_prompts(buffer.getvalue()) == ("a cat, a dog", "bad")


def test_a_prompt_before_truncated_pixels_is_read_without_decoding(monkeypatch):
    data, decoded = png(text={"parameters": "a cat"}, size=(64, 64)), []
    load = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: decoded.append(image) or load(image))
    assert embedded_prompts(data[: data.index(b"IDAT") + 8]) == embedded_prompts(data) == ("a cat", None) and decoded == []
    assert embedded_prompts(png()) == (None, None) and decoded


def test_bytes_that_are_no_image_have_no_prompt():
    for data in (b"", b"<html>", png()[:40], png(text={"parameters": "x"})[:-30]):
        assert embedded_prompts(data)[1] is None


def test_values_of_the_settings_line_may_be_quoted_and_hold_commas():
    line = 'Steps: 20, Hires prompt: "a \\"cat\\", a: dog\\nand a line", CFG scale: 7, Lora hashes: "x: 1a, y: 2b", Version: v1.9'
    assert embedded.parse_settings(line) == {
        "Steps": "20",
        "Hires prompt": 'a "cat", a: dog\nand a line',
        "CFG scale": "7",
        "Lora hashes": "x: 1a, y: 2b",
        "Version": "v1.9",
    }
    assert embedded.parse_settings("a plain sentence, with commas") == {}
    assert embedded.parse_settings(r'Steps: 1, Script: "C:\dogs"')["Script"] == r'"C:\dogs"'


def test_two_chunks_of_older_novelai_are_combined_and_a_description_alone_is_no_prompt():
    assert embedded_prompts(png(text={"Description": "1girl", "Comment": '{"steps": 28, "uc": "lowres"}'})) == ("1girl", "lowres")
    assert embedded_prompts(png(text={"Description": "my holiday", "Comment": '{"taken": "in May"}'})) == (None, None)
    assert embedded_prompts(png(text={"Description": "my holiday"})) == (None, None)


@pytest.mark.parametrize("mode", ["RGBA", "RGB"])
@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_prompt_in_the_lowest_bits_of_the_pixels_is_read(mode, gzipped, kind):
    assert embedded_prompts(with_hidden_text("a café\nNegative prompt: n\nSteps: 1", mode, gzipped, kind=kind)) == ("a café", "n")
    inside = {"Description": "1girl", "Comment": json.dumps({"uc": "bad"})}
    assert embedded_prompts(with_hidden_text(json.dumps(inside), mode, gzipped, kind=kind)) == ("1girl", "bad")
    graph = {"prompt": {"1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0]}}, "2": {"inputs": {"text": "hi"}}}}
    assert embedded_prompts(with_hidden_text(json.dumps(graph), mode, gzipped, kind=kind)) == ("hi", None)


@pytest.mark.parametrize("bits", [0, 7, 10**5, 2**32 - 1])
def test_a_hidden_length_beyond_the_pixels_is_no_prompt(bits):
    for gzipped in (True, False):
        assert embedded_prompts(with_hidden_text("a cat", gzipped=gzipped, bits=bits)) == (None, None)
    assert embedded_prompts(with_hidden_text(b"no gzip at all")) == (None, None)


def test_hidden_gzip_is_decompressed_up_to_a_limit(monkeypatch):
    monkeypatch.setattr("sur_adapter.data.prompts.stealth_png.MAX_TEXT", 1000)
    assert embedded_prompts(with_hidden_text("a" * 100_000)) == ("a" * 1000, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"1": {"class_type": "FaceDetailer", "inputs": {"positive": ["5", 0], "negative": ["4", 0]}}}, ("a cat", "bad")),
        ({"2": {"class_type": "Efficient Loader", "inputs": {"positive": "a bee", "negative": "wasps"}}}, ("a bee", "wasps")),
        ({"2": {"class_type": "SDXLPromptStyler", "inputs": {"text_positive": "a bee", "text_negative": "wasps"}}}, ("a bee", "wasps")),
        (
            {"7": {"class_type": "Text Concatenate", "inputs": {"delimiter": ", ", "text_a": "one", "text_b": ["6", 0]}}},
            ("one, a dog", "bad"),
        ),
        ({"7": {"class_type": "LoadText", "inputs": {"text_encoder": "t5.safetensors", "text": "a bird"}}}, ("a bird, a dog", "bad")),
        ({"1": {"class_type": "SamplerCustomAdvanced", "inputs": {"guider": ["8", 0]}}}, ("a cat, a dog", "bad")),
    ],
)
def test_the_positive_branch_is_found_through_any_nodes(changes, expected):
    assert embedded_prompts(png(text={"prompt": json.dumps(GRAPH | changes)})) == expected


def test_a_saved_workflow_may_have_reroutes_and_links_of_either_form():
    nodes = [
        {"id": 1, "type": "KSampler", "inputs": [{"name": "positive", "link": 10}, {"name": "negative", "link": 11}]},
        {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 12}]},
        {"id": 3, "type": "CLIPTextEncode", "widgets_values": ["a cat"]},
        {"id": 4, "type": "CLIPTextEncode", "widgets_values": {"text": "bad"}},
    ]
    links = [[10, 2, 0, 1, 0, "CONDITIONING"], [11, 4, 0, 1, 1, "CONDITIONING"], [12, 3, 0, 2, 0, "*"]]
    objects = [{"id": i, "origin_id": a, "origin_slot": slot} for i, a, slot, *_ in links]
    for link_list in (links, objects):
        assert embedded_prompts(png(text={"workflow": json.dumps({"nodes": nodes, "links": link_list})})) == ("a cat", "bad")


# random data, and round trips

WORDS = st.text(string.ascii_letters + "äé猫🐈 ,.:()[]<>|\\'", min_size=1, max_size=60).map(str.strip).filter(bool)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["prompt", "nodes", "links", "inputs", "type", "id"]), inner)
    ),
    max_leaves=12,
)
IDS = st.sampled_from(["1", "2", "3", "4"])
LINK = st.tuples(IDS, st.integers(0, 1)).map(list)
NODE = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from(["KSampler", "CLIPTextEncode", "BasicGuider", "Reroute", "StringConcatenate"]),
        "inputs": st.dictionaries(
            st.sampled_from(["positive", "negative", "text", "text_a", "conditioning", "guider"]), LINK | WORDS | JSON
        ),
    }
)
CHUNKS = [keys[0] for _, *keys in embedded.READERS]


@few
@given(st.binary(max_size=200), st.integers(0, 400))
def test_random_bytes_alone_or_inside_an_image_raise_nothing(junk, position):
    intact = with_hidden_text("a cat\nSteps: 1", size=(16, 16))
    for data in (
        junk,
        png()[:40] + junk,
        intact[:position] + junk + intact[position:],
        png(text={"parameters": junk.decode("latin-1")}),
    ):
        assert len(embedded_prompts(data)) == 2


@few
@given(JSON | st.text(), st.sampled_from(CHUNKS))
def test_json_of_any_shape_in_any_chunk_raises_nothing(value, chunk):
    for text in (value if isinstance(value, str) else json.dumps(value), json.dumps({"sui_image_params": value, "image": value})):
        assert len(embedded_prompts(png(text={chunk: text}))) == 2


@few
@given(st.dictionaries(IDS, NODE | JSON, max_size=4))
def test_graphs_with_arbitrary_links_terminate(graph):
    positive, negative = embedded_prompts(png(text={"prompt": json.dumps(graph)}))
    assert all(prompt is None or prompt.strip() for prompt in (positive, negative))


@few
@given(WORDS, WORDS | st.none())
def test_every_format_is_read_as_it_was_written(positive, negative):
    lines = f"{positive}\n" + (f"Negative prompt: {negative}\n" if negative else "") + "Steps: 20, Sampler: Euler a, Size: 8x8"
    nodes = {"2": {"class_type": "CLIPTextEncode", "inputs": {"text": positive}}}
    nodes |= {"3": {"class_type": "CLIPTextEncode", "inputs": {"text": negative}}} if negative else {}
    graph = {"1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "negative": ["3", 0]}}} | nodes
    written = [
        png(text={"parameters": lines}),
        with_user_comment(lines, "jpeg"),
        with_hidden_text(lines),
        with_hidden_text(lines, "RGB", gzipped=False),
        png(text={"parameters": json.dumps({"prompt": positive, "negative_prompt": negative or "", "fooocus_scheme": "fooocus"})}),
        png(text={"parameters": json.dumps({"sui_image_params": {"prompt": positive, "negativeprompt": negative or ""}})}),
        png(text={"invokeai_metadata": json.dumps({"positive_prompt": positive, "negative_prompt": negative})}),
        png(text={"Description": positive, "Comment": json.dumps({"uc": negative or "", "prompt": positive})}),
        png(text={"prompt": json.dumps(graph)}),
    ]
    assert {embedded_prompts(data) for data in written} == {(positive, negative)}


# real images

EXPECTED = {  # file -> start of (prompt, negative prompt), from SOURCE.txt beside the images
    "automatic1111_cropped.jpg": ("photo of a duck", "monochrome"),
    "automatic1111_cropped.png": ("photo of a duck", "monochrome"),
    "bad_text_after_idat.png": ("photo of a duck", "monochrome"),
    "comfyui_img2img_cropped.png": ("photograph of victorian woman with wings", "watermark, text"),
    "fooocus1_cropped.png": ("a smiling goldfish", None),
    "invokeai_imeta1.png": ("digital artwork, oil painting. painterly brushstrokes", "grainy+, photo, oversaturated"),
    "flux_schnell_example.png": ("a bottle with a beautiful rainbow galaxy", None),
    "img2img_workflow.png": ("photograph of victorian woman with wings", "watermark, text"),
    "lora.png": ("masterpiece best quality girl", "bad hands"),
    "sdxl_simple_example.png": ("evening sunset scenery blue sky nature, glass bottle with a galaxy in it", "text, watermark"),
    "sdxlturbo_example.png": ("beautiful landscape scenery glass bottle", "text, watermark"),
    "000001.1863159593.png": ("banana sushi", None),
    "000007.2407640369.png": ("banana sushi", None),
    "000011.1111168647.png": ("pond with waterlillies", None),
    "000019.47.png": ("big red++++ dog playing with cat", None),
    "000022.47.png": ("dog,cat", None),
    "apricots--3.png": ("a man picking apricots--- from a tree", None),
    "apricots-3.png": ("a man picking apricots+++ from a tree", None),
    "mountain-man4.png": ("mountain man++++", None),
    "1c1d4f13-21b0-4068-acd0-51a3ec1c18bc.png": ("(anime coloring, anime screencap", "BadDream, FastNegativeV2"),
    "dd9b038c-bd15-43ab-86ab-66e145ad7ff2.png": ("8k portrait of beautiful cyborg", "BadDream, FastNegativeV2"),
}


@real
def test_real_images_have_the_documented_prompts_and_others_have_none():
    for file in (f for f in REAL.rglob("*") if f.suffix in (".png", ".jpg")):
        for prompt, start in zip(embedded_prompts(file.read_bytes()), EXPECTED.get(file.name, (None, None)), strict=True):
            assert (prompt is None) == (start is None) and (prompt or "").startswith(start or ""), file.name


@real
def test_a_saved_workflow_has_the_same_prompts_as_the_executed_graph():
    for file in (REAL / "comfyui-examples").glob("*.png"):
        assert comfyui.workflow_prompts(Image.open(file).info["workflow"]) == embedded_prompts(file.read_bytes()), file.name
