"""The prompt inside a picture: what generators write into PNG text chunks, EXIF and pixels.

AUTOMATIC1111, Forge, SD.Next   PNG `parameters`; JPEG and WebP EXIF UserComment; the pixels' lowest bits (stealth.py)
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
from sur_adapter.data.prompts.comfyui import Prompts
from sur_adapter.data.prompts.stealth_png import hidden
from sur_adapter.io.images import FORMATS, MAX_PIXELS

USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
SETTING = re.compile(r'\s*(\w[\w /-]*):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')  # values with a comma, a colon or a line break are JSON
KNOWN = {"Steps", "Sampler", "CFG scale", "Seed", "Size", "Model", "Model hash", "Version"}
BROKEN = (AttributeError, LookupError, RecursionError, TypeError, ValueError)  # what readers raise on junk


def prompts(data: bytes) -> Prompts:
    """What the picture was generated with; (None, None) where nothing says so. Never raises: strangers wrote these bytes."""
    chunks, image = _chunks(data)
    found = _read(chunks)
    if found[0] or image is None:
        return found
    return _read(_unpacked(hidden(image)))


def _read(chunks: dict[str, str]) -> Prompts:
    for read, *keys in READERS:
        if keys[0] in chunks:
            try:
                positive, negative = read(*(chunks[key] for key in keys if key in chunks))
            except BROKEN:
                continue
            if positive:
                return positive, negative
    return None, None


def _chunks(data: bytes) -> tuple[dict[str, str], Image.Image | None]:
    """PNG text chunks, and EXIF under the same names; the picture, if its pixels could be loaded. Of a broken one, what can be read."""
    chunks, image, atomic_write = {}, None, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(BytesIO(data), formats=FORMATS)
        chunks |= image.info
        if not _read(chunks)[0] and image.width * image.height <= MAX_PIXELS:  # what is larger the crawl refuses
            chunks = _exif(image) | chunks
            image.load()  # a PNG may carry text behind its pixels, or in them; decoding is what costs
            chunks |= image.info
            atomic_write = True
    except Exception:  # Pillow raises anything on broken bytes; what was read until then counts
        pass
    return {key: str(value) for key, value in chunks.items() if isinstance(value, str)}, image if atomic_write else None


def _exif(image: Image.Image) -> dict[str, str]:
    exif, found = image.getexif(), {}
    if comment := _comment(exif.get_ifd(EXIF_IFD).get(USER_COMMENT)):
        found["parameters"] = comment
    for value in exif.values():  # ComfyUI's WebP: Make says "prompt:{…}", Model "workflow:{…}"
        if isinstance(value, str) and (match := re.match(r"(prompt|workflow):\s*(?=\{)", value, re.I)):
            found[match[1].lower()] = value[match.end() :].rstrip("\0")
    return found


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


def _unpacked(text: str | None) -> dict[str, str]:
    """Hidden text as chunks: JSON of all that the PNG held too (NovelAI, ComfyUI), or what stands in `parameters`."""
    if not text:
        return {}
    try:
        values = json.loads(text)
        if "Comment" in values or any(isinstance(values.get(key), dict) for key in ("prompt", "workflow")):
            return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    except BROKEN:
        pass
    return {"parameters": text}


def sidecar(text: str) -> Prompts:
    """What stands in a text file beside a picture: as `parameters`, or words and no more, such as "{red|blue} cat"."""
    try:
        return parameters(text)
    except BROKEN:
        return _text(text), None


def parameters(text: str) -> Prompts:
    """AUTOMATIC1111's lines, or the JSON of Fooocus, SwarmUI or ComfyUI."""
    if text.lstrip().startswith("{"):
        values = json.loads(text)
        if any(isinstance(node, dict) and "class_type" in node for node in values.values()):
            return comfyui.graph(text)
        return _pair(values.get("sui_image_params", values))
    lines = text.split("\n")
    last = max((i for i, line in enumerate(lines) if _tells_settings(line)), default=len(lines))
    words = "\n".join(lines[:last])
    positive, _, negative = re.sub(r"^[ \t]*Negative prompt:", "\0", words, count=1, flags=re.M).partition("\0")
    return _text(positive), _text(negative)


def settings(line: str) -> dict[str, str]:
    """AUTOMATIC1111's last line: what it says of each setting, quoted values unquoted; empty where it is no such line."""
    found, end = {}, 0
    while match := SETTING.match(line, end):
        key, value, end = match[1], match[2].strip(), match.end()
        try:
            found[key] = str(json.loads(value)) if value.startswith('"') else value
        except ValueError:
            found[key] = value
        if end == len(line):
            return found
    return {}


def _tells_settings(line: str) -> bool:
    """`Steps: 20, …`, or two other settings that everyone writes; prose with a colon is none."""
    return bool(re.match(r"Steps: \d", line)) or len(KNOWN & settings(line.rstrip()).keys()) > 1


def invokeai(text: str) -> Prompts:
    return _pair(json.loads(text))


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


def novelai(comment: str, description: str | None = None) -> Prompts:
    """Settings in `Comment`, and in the newer ones the prompt too; before that it stood in `Description` alone."""
    values = json.loads(comment)
    positive, negative = _pair(values)
    return positive or (_text(description) if "uc" in values else None), negative


def _pair(values: dict) -> Prompts:
    """Both prompts under the names that generators give them."""
    values = {str(key).lower().replace(" ", "_"): value for key, value in values.items()}
    positive, negative = ("prompt", "positive_prompt"), ("negative_prompt", "negativeprompt", "uc")
    return tuple(next(filter(None, (_text(values.get(key)) for key in keys)), None) for keys in (positive, negative))


def _text(value) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


READERS = (  # the first chunk has to be there; in this order
    (parameters, "parameters"),
    (invokeai, "invokeai_metadata"),
    (sd_metadata, "sd-metadata"),
    (dream, "Dream"),
    (comfyui.graph, "prompt"),
    (comfyui.workflow, "workflow"),
    (novelai, "Comment", "Description"),
)
