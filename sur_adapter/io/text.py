"""Hints for error messages."""

from difflib import get_close_matches


def did_you_mean(word: str, known) -> str:
    """ " (did you mean 'x'?)" for the closest of `known`, or an empty string."""
    close = get_close_matches(str(word), list(map(str, known)), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
