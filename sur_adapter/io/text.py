"""Hints for error messages."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, known: Iterable) -> str:
    """Returns " (did you mean 'x'?)" with the closest of `known`, or an empty string if none is close."""
    close = get_close_matches(str(word), list(map(str, known)), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
