"""Renders HTML pages from the Jinja2 templates in templates/, with autoescape.

A page is self-contained: no network, no clock, no script except one whose hash its own content security policy names. Prompts are
untrusted, so templates show them with the filter `isolate`: as text, never as markup.
"""

import base64
import re
from functools import cache
from hashlib import sha256
from importlib.resources import files
from io import BytesIO
from unicodedata import category

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sur_adapter.io.images import open_image

MAX_SIDE = 256  # pixels: larger images are shown as thumbnails
SMALL = 128  # pixels: smaller images are enlarged without smoothing
MAX_LENGTH = 300  # characters shown of a text from elsewhere
BIDI_CONTROLS = set(
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
)  # change the direction of the text after them


def render(template: str, styles: tuple[str, ...] = (), script: str = "", **context) -> str:
    """Renders the page of a template that extends page.html. styles, script: files of templates/; context: the template's variables."""
    policy = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    code = _read(script) if script else ""
    if code:
        policy.append(f"script-src 'sha256-{base64.b64encode(sha256(code.encode()).digest()).decode()}'")
    style = "".join(_read(name) for name in ("base.css", *styles))
    page = {"policy": Markup("; ".join(policy)), "style": Markup(style), "script": Markup(code)}
    return _environment().get_template(template).render(**page, **context) + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"isolate": isolate, "percent": percent, "signed": signed, "number": number, "span": span}
    environment.globals["image_tag"] = image_tag
    return environment


def _read(name: str) -> str:
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def sanitize(text: object, max_length: int = MAX_LENGTH) -> str:
    """Truncates a text from elsewhere and removes control characters and marks that change the text direction. It is not escaped."""
    clean = "".join(c for c in str(text) if c not in BIDI_CONTROLS and category(c) not in ("Cc", "Cs"))
    return clean if len(clean) <= max_length else clean[:max_length] + "…"


def isolate(text: object) -> Markup:
    """Formats a text from elsewhere as HTML: sanitized, escaped, its direction isolated from the rest."""
    return Markup("<bdi>{}</bdi>").format(sanitize(text))


def percent(value: float) -> str:
    """Formats a share as a whole percentage."""
    return f"{number(100 * value)} %"


def number(value: float, form: str = ".0f") -> str:
    """Formats a number with a minus sign, not a hyphen; one that is rounded to 0 has none."""
    text = f"{value:{form}}"
    return (text if float(text.replace(",", "")) else text.lstrip("-")).replace("-", "−")


def span(low: float, high: float, form: str = ".0f") -> str:
    """Formats the two ends of an interval."""
    return f"{number(low, form)}{' to ' if low < 0 else '–'}{number(high, form)}"


def with_minus_signs(text: str) -> str:
    """Replaces the hyphens before numbers in a sentence by minus signs. Those within a word or a date stay."""
    return re.sub(r"(?<![\w.\-])-(?=\.?\d)", "−", text)


def signed(value: float, digits: int = 0) -> str:
    """Formats a number with its sign, + or a minus sign; one that is rounded to 0 has none."""
    text = f"{abs(value):.{digits}f}"
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def image_tag(data: bytes, alt: str, max_side: int = MAX_SIDE) -> Markup:
    """Returns an <img> with the image inside, at most `max_side` pixels wide and high; the file's metadata is left out."""
    image = open_image(data)
    if max(image.size) > max_side:
        image.thumbnail((max_side, max_side))
    kind, buffer = "png" if max(image.size) < MAX_SIDE else "webp", BytesIO()
    image.save(buffer, kind, quality=85)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    style = Markup(' style="image-rendering:pixelated"') if max(image.size) < SMALL else ""
    return Markup('<img src="{}" width="{}" height="{}" alt="{}"{}>').format(source, image.width, image.height, alt, style)
