"""Word edit distance: the number of words to insert, remove or replace to turn one sentence into another. Case and punctuation are ignored.

In scripts without spaces (Chinese, Japanese) each character counts as a word.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
ROWS_PER_CHUNK = 4096
FIRST_LETTER = 0x10000  # above the surrogates


def normalise(sentence: str) -> str:
    """Returns the words of a sentence, joined by spaces: NFKC, case folded, without punctuation; equal for equal sentences."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", sentence).casefold()).translate({ord("'"): None, ord("’"): None})
    return " ".join(WORD.findall("".join(" " if unicodedata.category(c)[0] in "PC" else c for c in text)))


def min_word_edits(sentences: Sequence[str], held_out: Sequence[str], limit: int) -> np.ndarray:
    """Returns the word edits between each sentence and the nearest held-out one, (N,); distances above `limit` are limit + 1.

    Both are normalised. A word is mapped to one character, so that a distance of strings is one of words; words that no held-out
    sentence has never match and share a character.
    """
    letters = {word: chr(FIRST_LETTER + i) for i, word in enumerate(sorted({word for text in held_out for word in text.split()}))}
    unknown = chr(FIRST_LETTER - 1)

    def encode(text: str) -> str:
        return "".join(letters.get(word, unknown) for word in text.split())

    references, nearest = sorted({encode(text) for text in held_out}), [np.empty(0, np.uint16)]
    for start in range(0, len(sentences), ROWS_PER_CHUNK):
        if not references:
            return np.full(len(sentences), limit + 1, np.uint16)
        queries = [encode(text) for text in sentences[start : start + ROWS_PER_CHUNK]]
        distances = cdist(queries, references, scorer=Levenshtein.distance, score_cutoff=limit, dtype=np.uint16)  # (chunk, held-out)
        nearest.append(np.minimum(distances.min(1), limit + 1))
    return np.concatenate(nearest)
