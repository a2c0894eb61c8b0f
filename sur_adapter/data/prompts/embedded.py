"""Reads prompts embedded in image files: what generators write into PNG text chunks, EXIF and pixels.

AUTOMATIC1111, Forge, SD.Next   PNG `parameters`; JPEG and WebP EXIF UserComment; the pixels' lowest bits (stealth_png.py)
Fooocus, SwarmUI                JSON in the same places
ComfyUI                         PNG `prompt` (API graph) or `workflow` (UI graph); WebP EXIF `Make` (comfyui.py)
InvokeAI                        PNG `invokeai_metadata`, before that `sd-metadata`, before that `Dream`
NovelAI                         PNG `Description` and `Comment`; the pixels' lowest bits
"""

import json
import re
import warnings
from io import BytesIO

from PIL import Image

from sur_adapter.data.prompts import comfyui
from sur_adapter.data.prompts.cleaning import nonempty_text
from sur_adapter.data.prompts.comfyui import Prompts
from sur_adapter.data.prompts.stealth_png import hidden_text
from sur_adapter.io.images import FORMATS, MAX_PIXELS

USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
SETTING = re.compile(r'\s*(\w[\w /-]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')  # values with a comma, a colon or a line break are JSON
COMMON_SETTINGS = {"Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash", "Version"}
PARSE_ERRORS = (AttributeError, LookupError, RecursionError, TypeError, ValueError)  # that readers raise on malformed text


def embedded_prompts(data: bytes) -> Prompts:
    """Reads the prompts that an image was generated with; (None, None) if the file has none. Never raises, whatever the bytes are."""
    chunks, image = _text_chunks(data)
    prompts = _parse(chunks)
    if prompts.positive or image is None:
        return prompts
    return _parse(_hidden_chunks(hidden_text(image)))


def _parse(chunks: dict[str, str]) -> Prompts:
    for read, *keys in READERS:
        if keys[0] in chunks:
            try:
                prompts = read(*(chunks[key] for key in keys if key in chunks))
            except PARSE_ERRORS:
                continue
            if prompts.positive:
                return prompts
    return Prompts(None, None)


def _text_chunks(data: bytes) -> tuple[dict[str, str], Image.Image | None]:
    """Reads PNG text chunks, and EXIF under the same names. Returns the image too, if its pixels were loaded.

    Of a corrupt file, it returns what can be read.
    """
    chunks, image, loaded = {}, None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data), formats=FORMATS)
        chunks |= image.info
        if not _parse(chunks).positive and image.width * image.height <= MAX_PIXELS:  # the crawl refuses larger ones
            chunks = _exif_chunks(image) | chunks
            image.load()  # a PNG may have text after its pixels, or in them; only now, since decoding is slow
            chunks |= image.info
            loaded = True
    except Exception:  # on corrupt bytes Pillow raises anything; what was read before is kept
        pass
    return {key: str(value) for key, value in chunks.items() if isinstance(value, str)}, image if loaded else None


def _exif_chunks(image: Image.Image) -> dict[str, str]:
    exif, chunks = image.getexif(), {}
    if comment := _decode_comment(exif.get_ifd(EXIF_IFD).get(USER_COMMENT)):
        chunks["parameters"] = comment
    for value in exif.values():  # ComfyUI's WebP: Make says "prompt:{…}", Model "workflow:{…}"
        if isinstance(value, str) and (match := re.match(r"(prompt|workflow):\s*(?=\{)", value, re.I)):
            chunks[match[1].lower()] = value[match.end() :].rstrip("\0")
    return chunks


def _decode_comment(value) -> str | None:
    """Decodes EXIF UserComment: eight bytes name the encoding. UNICODE is UTF-16 in either byte order, whatever the standard says."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return None
    code, text = value[:8], value[8:]
    if code != b"UNICODE\0":
        return (text if code in (b"ASCII\0\0\0", bytes(8)) else value).decode("utf-8", "replace").strip("\0")
    order = "utf-16-le" if text[1::2].count(0) > text[::2].count(0) else "utf-16-be"
    return text.decode(order, "replace").strip("\0")


def _hidden_chunks(text: str | None) -> dict[str, str]:
    """Returns hidden text as chunks: JSON of all text chunks (NovelAI, ComfyUI), or the text of `parameters`."""
    if not text:
        return {}
    try:
        values = json.loads(text)
        if "Comment" in values or any(isinstance(values.get(key), dict) for key in ("prompt", "workflow")):
            return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    except PARSE_ERRORS:
        pass
    return {"parameters": text}


def sidecar_prompts(text: str) -> Prompts:
    """Reads a text file beside an image: the format of `parameters`, or only a prompt, such as "{red|blue} cat"."""
    try:
        return parameters(text)
    except PARSE_ERRORS:
        return Prompts(nonempty_text(text), None)


def parameters(text: str) -> Prompts:
    """Reads AUTOMATIC1111's lines, or the JSON of Fooocus, SwarmUI or ComfyUI."""
    if text.lstrip().startswith("{"):
        values = json.loads(text)
        if any(isinstance(node, dict) and "class_type" in node for node in values.values()):
            return comfyui.graph_prompts(text)
        return _from_dict(values.get("sui_image_params", values))
    lines = text.split("\n")
    last = max((i for i, line in enumerate(lines) if _is_settings_line(line)), default=len(lines))
    prompts = "\n".join(lines[:last])
    positive, _, negative = re.sub(r"^[ \t]*Negative prompt:", "\0", prompts, count=1, flags=re.M).partition("\0")
    return Prompts(nonempty_text(positive), nonempty_text(negative))


def parse_settings(line: str) -> dict[str, str]:
    """Parses AUTOMATIC1111's last line, unquoting quoted values; empty if the line is not of this form."""
    settings, end = {}, 0
    while match := SETTING.match(line, end):
        key, value, end = match[1], match[2].strip(), match.end()
        try:
            settings[key] = str(json.loads(value)) if value.startswith('"') else value
        except ValueError:
            settings[key] = value
        if end == len(line):
            return settings
    return {}


def _is_settings_line(line: str) -> bool:
    """Tells whether a line is `Steps: 20, …` or has two other common settings, which a prompt with a colon does not have."""
    return bool(re.match(r"Steps: \d", line)) or len(COMMON_SETTINGS & parse_settings(line.rstrip()).keys()) > 1


def invokeai(text: str) -> Prompts:
    """Reads InvokeAI's JSON."""
    return _from_dict(json.loads(text))


def sd_metadata(text: str) -> Prompts:
    """Reads the JSON of older versions of InvokeAI."""
    prompt = json.loads(text)["image"]["prompt"]
    if isinstance(prompt, list):  # [{"prompt", "weight"}, …]
        prompt = " ".join(part["prompt"] for part in prompt).replace(" ,", ",")
    return _bracketed(prompt)


def dream(text: str) -> Prompts:
    """Reads InvokeAI's command line: prompt, then options of one letter."""
    return _bracketed(re.split(r"\s-[a-zA-Z]\s", text)[0].strip().strip('"'))


def _bracketed(prompt: str) -> Prompts:
    """Splits a prompt of older InvokeAI: text in [brackets] is the negative prompt."""
    return Prompts(nonempty_text(re.sub(r"\[[^\[\]]*\]", "", prompt)), nonempty_text(", ".join(re.findall(r"\[([^\[\]]*)\]", prompt))))


def novelai(comment: str, description: str | None = None) -> Prompts:
    """Reads `Comment`: settings, and in newer versions the prompt; older ones have it in `Description` only."""
    values = json.loads(comment)
    positive, negative = _from_dict(values)
    return Prompts(positive or (nonempty_text(description) if "uc" in values else None), negative)


def _from_dict(values: dict) -> Prompts:
    """Reads both prompts, under the keys that generators use."""
    values = {str(key).lower().replace(" ", "_"): value for key, value in values.items()}
    names = ("prompt", "positive_prompt"), ("negative_prompt", "negativeprompt", "uc")
    return Prompts(*(next(filter(None, (nonempty_text(values.get(key)) for key in keys)), None) for keys in names))


READERS = (  # (function, its chunks), tried in this order if the first chunk is there
    (parameters, "parameters"),
    (invokeai, "invokeai_metadata"),
    (sd_metadata, "sd-metadata"),
    (dream, "Dream"),
    (comfyui.graph_prompts, "prompt"),
    (comfyui.workflow_prompts, "workflow"),
    (novelai, "Comment", "Description"),
)
