"""The prompt inside a picture: what generators write into PNG text chunks and EXIF.

AUTOMATIC1111, Forge, SD.Next   PNG `parameters`; JPEG and WebP EXIF UserComment
Fooocus, SwarmUI                JSON in the same places
ComfyUI                         PNG `prompt` (API graph) or `workflow` (UI graph); WebP EXIF `Make`
InvokeAI                        PNG `invokeai_metadata`, before that `sd-metadata`, before that `Dream`
NovelAI                         PNG `Description` and `Comment`
"""

import json
import re
import warnings
from io import BytesIO

from PIL import Image

from sur_adapter.pictures import FORMATS, MAX_PIXELS

USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
Prompts = tuple[str | None, str | None]  # (positive, negative)


def prompts(data: bytes) -> Prompts:
    """What the picture was generated with; (None, None) where nothing says so. Never raises: strangers wrote these bytes."""
    chunks = _chunks(data)
    for key, read in READERS.items():
        if text := chunks.get(key):
            try:
                positive, negative = read(text)
            except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError):
                continue
            if positive:
                return positive, negative
    return None, None


def _chunks(data: bytes) -> dict[str, str]:
    """PNG text chunks, and EXIF under the same names; what of a broken picture can be read."""
    chunks: dict = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data), formats=FORMATS)
        exif = image.getexif()
        if comment := _comment(exif.get_ifd(EXIF_IFD).get(USER_COMMENT)):
            chunks["parameters"] = comment
        for value in exif.values():  # ComfyUI's WebP: Make says "prompt:{…}", Model "workflow:{…}"
            if isinstance(value, str) and (match := re.match(r"(prompt|workflow):(?=\{)", value, re.I)):
                chunks[match[1].lower()] = value[match.end() :].rstrip("\0")
        chunks |= image.info
        if image.width * image.height <= MAX_PIXELS:
            image.load()  # a PNG may carry text behind its pixels
            chunks |= image.info
    except Exception:  # Pillow raises anything on broken bytes; what was read until then counts
        pass
    return {key: value for key, value in chunks.items() if isinstance(value, str)}


def _comment(value) -> str | None:
    """EXIF UserComment: eight bytes name the code. UNICODE is UTF-16 of either byte order, whatever the standard says."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return None
    code, text = value[:8], value[8:]
    if code != b"UNICODE\0":
        return (text if code in (b"ASCII\0\0\0", bytes(8)) else value).decode("utf-8", "replace").strip("\0")
    order = "utf-16-le" if text[1::2].count(0) > text[::2].count(0) else "utf-16-be"
    return text.decode(order, "replace").strip("\0")


def parameters(text: str) -> Prompts:
    """AUTOMATIC1111's lines (a sidecar .txt too), or the JSON of Fooocus or SwarmUI."""
    if text.lstrip().startswith("{"):
        values = json.loads(text)
        values = values.get("sui_image_params", values)
        return _text(values.get("prompt")), _text(values.get("negative_prompt") or values.get("negativeprompt"))
    settings = [m.start() for m in re.finditer(r"^Steps: \d+", text, re.M)]
    words = text[: settings[-1]] if settings else text
    positive, _, negative = re.sub(r"^Negative prompt:", "\0", words, count=1, flags=re.M).partition("\0")
    return _text(positive), _text(negative)


def invokeai(text: str) -> Prompts:
    values = json.loads(text)
    return _text(values.get("positive_prompt")), _text(values.get("negative_prompt"))


def sd_metadata(text: str) -> Prompts:
    prompt = json.loads(text)["image"]["prompt"]
    if isinstance(prompt, list):  # [{"prompt", "weight"}, …]
        prompt = " ".join(part["prompt"] for part in prompt).replace(" ,", ",")
    return _bracketed(prompt)


def dream(text: str) -> Prompts:
    """InvokeAI's command line: prompt, then options of one letter."""
    return _bracketed(re.split(r"\s-[a-zA-Z]\s", text)[0].strip().strip('"'))


def _bracketed(prompt: str) -> Prompts:
    """Old InvokeAI: what is in [brackets] is the negative prompt."""
    return _text(re.sub(r"\[[^\[\]]*\]", "", prompt)), _text(", ".join(re.findall(r"\[([^\[\]]*)\]", prompt)))


def novelai(text: str) -> Prompts:
    values = json.loads(text)
    return _text(values.get("prompt")), _text(values.get("uc"))


# ComfyUI: a graph {id: {"class_type", "inputs"}}; an input is a value, or a link [id of a node, number of its output]

TEXTS = ("text", "text_g", "text_l", "clip_l", "t5xxl", "prompt", "string", "value", "positive_prompt")
PASSES = ("guider", "conditioning", "conditioning_1", "conditioning_to", "conditioning_2", "conditioning_from", "base_positive")


def comfyui(text: str) -> Prompts:
    """From a sampler's `positive` and `negative` to the text encoders."""
    graph = json.loads(text)  # NaN, which ComfyUI writes, is read
    nodes = {str(k): v for k, v in graph.items() if isinstance(v, dict) and isinstance(v.get("inputs"), dict)}
    samplers = [n["inputs"] for n in nodes.values() if "sampler" in str(n.get("class_type")).lower()]
    for inputs in samplers:
        positive = _walk(nodes, inputs.get("positive") or inputs.get("guider"), "positive", set())
        if positive:
            return positive, _walk(nodes, inputs.get("negative") or inputs.get("guider"), "negative", set())
    return None, None


def workflow(text: str) -> Prompts:
    """The same graph as the editor saves it: links in a list of their own, texts among a node's widgets."""
    saved = json.loads(text)
    links = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
    nodes = {}
    for node in saved["nodes"]:
        widgets = node.get("widgets_values") or []
        words = [w for w in (widgets if isinstance(widgets, list) else widgets.values()) if isinstance(w, str)]
        inputs = {"text": words[0]} if words and re.search("text|prompt|string|primitive", node["type"], re.I) else {}
        inputs |= {i["name"]: links[i["link"]] for i in node.get("inputs") or [] if i.get("link") in links}
        nodes[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return comfyui(json.dumps(nodes))


def _walk(nodes: dict, value, side: str, seen: set[str]) -> str | None:
    """The text a value is, or the texts its node encodes or passes on; no node is asked twice."""
    if isinstance(value, str):
        return _text(value)
    if not (isinstance(value, list) and len(value) == 2 and str(value[0]) in nodes) or str(value[0]) in seen:
        return None
    seen.add(str(value[0]))
    inputs = nodes[str(value[0])]["inputs"]
    if "positive" in inputs and "negative" in inputs:  # a ControlNet, a guider: it passes both sides on
        return _walk(nodes, inputs[side], side, seen)
    if side == "negative" and "Guider" in str(nodes[str(value[0])].get("class_type")):  # BasicGuider has no negative side
        return None
    found = [_walk(nodes, inputs[key], side, seen) for key in (*TEXTS, *PASSES) if key in inputs]
    return ", ".join(dict.fromkeys(filter(None, found))) or None


def _text(value) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


READERS = {
    "parameters": parameters,
    "invokeai_metadata": invokeai,
    "sd-metadata": sd_metadata,
    "Dream": dream,
    "prompt": comfyui,
    "workflow": workflow,
    "Comment": novelai,
}
