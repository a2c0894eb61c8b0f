"""Lists of prompts that others publish, one file each: `recognises(name, text)` and `rows(file, text)`, in the form of prompts.py.

An id follows from what its prompt says, not from where it stands: a list that is cut or sorted anew keeps its ids, so its noise and
its pictures. A prompt that a list holds twice counts twice there, and here: the second is called -2.
"""

import json
from collections import Counter
from hashlib import sha256


def parse(text: str):
    """JSON of a stranger. Raises json.JSONDecodeError, whatever is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError):  # a million brackets, ten thousand digits
        raise json.JSONDecodeError("nested too deep, or a number too long", text, 0) from None


def named(list_name: str, rows: list[dict]) -> list[dict]:
    """The rows with their ids: the list's name, ten hex digits of the prompt's SHA-256."""
    seen: Counter[str] = Counter()
    out = []
    for row in rows:
        key = f"{list_name}-{sha256(row['prompt'].encode(errors='surrogatepass')).hexdigest()[:10]}"
        seen[key] += 1
        out.append({"id": key if seen[key] == 1 else f"{key}-{seen[key]}"} | row)
    return out
