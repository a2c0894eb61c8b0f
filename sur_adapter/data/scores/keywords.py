"""How much a prompt is a heap of keywords, and how little a sentence: 0 for plain prose, 1 for tags alone.

    k = (s + w + (1 − f)) / 3        for a prompt of at least two phrases or one stock word; else 0

s: share of the comma-separated phrases that have at most four words, none of them a function word
w: stock words ("masterpiece", "8k", …) for each phrase, at most 1
f: function words and common verbs among all words, six in twenty counting as all: English prose has about four or five in ten
"""

import re
from collections.abc import Iterable

from PIL import Image

SHORT = 4  # words of a phrase that is a tag
PROSE = 0.3  # share of function words from which a text is prose through and through
FUNCTION = """
    a an the this that these those there here he she it they we you i his her its their our your my who which what where when while
    and or but if as than so because of in on at by to from into onto with without for over under between near behind beside through
    is are was were be been being am has have had do does did can could will would may might must should not no
    shows show showing stands sits runs looks wears holds goes makes takes gives says sees"""
STOCK = """
    masterpiece photorealistic hyperrealistic realistic detailed intricate sharp cinematic unreal octane artstation deviantart
    hdr uhd hd 4k 8k 16k bokeh illustration render raytracing trending concept wallpaper absurdres highres award winning
    volumetric lighting dramatic ultra best quality"""
FUNCTION, STOCK = set(FUNCTION.split()), set(STOCK.split())


def score(images: Iterable[Image.Image], rows: list[dict]) -> list[float | None]:
    """k of each complex prompt, None where there is none. Pictures are not looked at."""
    return [None if row["complex_prompt"] is None else keywords(row["complex_prompt"]) for row in rows]


def keywords(prompt: str) -> float:
    """0 … 1, a function of the words alone: case and spaces do not count."""
    phrases = [words for part in re.split(r"[,;|\n]+", prompt.lower()) if (words := re.findall(r"[^\W_]+(?:'\w+)?", part))]
    words = [word for phrase in phrases for word in phrase]
    stock = sum(word in STOCK for word in words)
    if len(phrases) < 2 and not stock:
        return 0.0
    short = sum(len(phrase) <= SHORT and not FUNCTION & set(phrase) for phrase in phrases) / len(phrases)
    prose = min(1.0, sum(word in FUNCTION for word in words) / len(words) / PROSE)
    return (short + min(1.0, stock / len(phrases)) + 1 - prose) / 3
