"""How much a prompt looks like a list of keywords: 0 for plain prose, 1 for tags alone.

    k = (s + w + (1 - f)) / 3        for a prompt of at least two phrases or one stock word; else 0

s: share of the comma-separated phrases that have at most four words, none of them a function word
w: stock words ("masterpiece", "8k", …) per phrase, at most 1
f: share of function words and common verbs among all words, divided by 0.3, at most 1: English prose has a share of 0.4 to 0.5
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

MAX_TAG_WORDS = 4
PROSE_SHARE = 0.3  # share of function words from which a text counts as prose
FUNCTION_WORDS = """
    a an the this that these those there here he she it they we you i his her its their our your my who which what where when while
    and or but if as than so because of in on at by to from into onto with without for over under between near behind beside through
    is are was were be been being am has have had do does did can could will would may might must should not no
    shows show showing stands sits runs looks wears holds goes makes takes gives says sees"""
STOCK_WORDS = """
    masterpiece photorealistic hyperrealistic realistic detailed intricate sharp cinematic unreal octane artstation deviantart
    hdr uhd hd 4k 8k 16k bokeh illustration render raytracing trending concept wallpaper absurdres highres award winning
    volumetric lighting dramatic ultra best quality"""
FUNCTION_WORDS, STOCK_WORDS = set(FUNCTION_WORDS.split()), set(STOCK_WORDS.split())


@dataclass(frozen=True)
class Config:
    """The score has no settings."""


def score(images: Iterable[Image.Image], rows: list[dict], config: Config) -> list[float | None]:
    """Returns k of each keyword prompt, None if there is none. Images are not decoded."""
    return [None if row["complex_prompt"] is None else keyword_share(row["complex_prompt"]) for row in rows]


def keyword_share(prompt: str) -> float:
    """Returns k, from 0 to 1. Case and spaces do not matter."""
    phrases = [words for part in re.split(r"[,;|\n]+", prompt.lower()) if (words := re.findall(r"[^\W_]+(?:'\w+)?", part))]
    words = [word for phrase in phrases for word in phrase]
    stock = sum(word in STOCK_WORDS for word in words)
    if len(phrases) < 2 and not stock:
        return 0.0
    tags = sum(len(phrase) <= MAX_TAG_WORDS and not FUNCTION_WORDS & set(phrase) for phrase in phrases) / len(phrases)
    prose = min(1.0, sum(word in FUNCTION_WORDS for word in words) / len(words) / PROSE_SHARE)
    return (tags + min(1.0, stock / len(phrases)) + 1 - prose) / 3
