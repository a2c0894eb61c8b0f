"""Published prompt benchmarks, one file each. A new benchmark is a module here with the two functions of `PromptFormat`.

Benchmarks without ids get them from `with_ids`: an id is a function of the prompt's text, not of its position. So a list that is cut or
sorted keeps its ids, and with them the initial noise and the images. A prompt that occurs twice is kept twice; the second id ends in -2.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Protocol

from sur_adapter.io.hashing import short_digest


class PromptFormat(Protocol):
    """What a module of this package provides."""

    def matches(self, file_name: str, text: str) -> bool:
        """Returns whether a file with this name and content is a list of this benchmark. Never raises."""

    def read_rows(self, file: Path, text: str) -> list[dict]:
        """Reads the prompts of `text`, the content of `file`, as rows of generation/prompts.py.

        A row has id, category, prompt and, where the benchmark has them, include, exclude or atoms. Raises ValueError that names the file
        and the line.
        """


def parse_json(text: str) -> Any:
    """Parses JSON from an untrusted file. Raises json.JSONDecodeError, whatever is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError):  # a million brackets, ten thousand digits
        raise json.JSONDecodeError("nested too deep, or a number too long", text, 0) from None


def with_ids(list_name: str, rows: list[dict]) -> list[dict]:
    """Adds an id to each row: `list_name` and ten hex digits of the prompt's SHA-256."""
    counts: Counter[str] = Counter()
    result = []
    for row in rows:
        key = f"{list_name}-{short_digest(row['prompt'].encode(errors='surrogatepass'))[:10]}"
        counts[key] += 1
        result.append({"id": key if counts[key] == 1 else f"{key}-{counts[key]}"} | row)
    return result
