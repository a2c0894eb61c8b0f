"""The tokenizer of the miniature's CLIP: CLIP's own byte-pair merges, cut down to a few thousand pieces.

The real tokenizer has 49,408 pieces and makes one token of almost every English word; the weights of so many pieces would not fit
here. Kept are the merges that spell the words of this world, and then those of the most frequent words of a list of prompts, so that
ordinary words are one or two tokens, as in the real one. Both lists are files of packages: the merges of open_clip (MIT licence),
the prompts of clip-interrogator (MIT licence).
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MIN_COUNT = 10  # rarer words of the corpus are typing errors
REAL_MERGES = 49152 - 256 - 2  # of the real tokenizer; the file of open_clip holds more


def build_tokenizer(corpus: Iterable[str], size: int, length: int) -> CLIPTokenizer:
    """CLIP's tokenizer with `size` pieces. corpus: texts whose words come first. length: tokens of the text encoder."""
    merges = _real_merges()
    rank = {a + b: i for i, (a, b) in enumerate(merges)}
    letters = sorted(bytes_to_unicode().values())  # any text has tokens
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    words = Counter(word for text in corpus for word in re.findall(r"[a-z]+|[0-9]", text.lower()))
    real = CLIPTokenizer(vocab=_vocabulary(pieces, merges), merges=merges)
    kept: set[int] = set()
    known = sorted(word for word, count in words.items() if count >= MIN_COUNT)
    for word in (*known, *_common_words()):
        needed = {i for token in real.tokenize(word) for i in _derivation(token, merges, rank)} - kept
        if len(pieces) + len(kept | needed) + 2 > size:
            break
        kept |= needed
    chosen = [merges[i] for i in sorted(kept)]
    return CLIPTokenizer(vocab=_vocabulary(pieces, chosen), merges=chosen, model_max_length=length)


def _vocabulary(pieces: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    return {token: i for i, token in enumerate([*pieces, *(a + b for a, b in merges), BOS, EOS])}


def _derivation(token: str, merges: list[tuple[str, str]], rank: dict[str, int]) -> set[int]:
    """The merges that make a token: its own, and those of its two parts."""
    if token not in rank:
        return set()
    i = rank[token]
    return {i}.union(*(_derivation(part, merges, rank) for part in merges[i]))


def _real_merges() -> list[tuple[str, str]]:
    lines = gzip.decompress(files("open_clip").joinpath("bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    return [tuple(line.split()) for line in lines[1 : REAL_MERGES + 1]]


def _common_words() -> list[str]:
    """Words of clip-interrogator's list of prompts, the most frequent first."""
    text = files("clip_interrogator").joinpath("data/flavors.txt").read_text(encoding="utf-8").lower()
    count = Counter(re.findall(r"[a-z]+", text))
    return sorted(count, key=lambda word: (-count[word], word))
