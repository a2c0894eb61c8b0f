"""SURD as published: pictures with both prompts, as a Hugging Face image folder.

metadata.jsonl has rows {"file_name", "text" (the simple prompt), "prompt" (the complex one)}; file_name may lack folder and extension.
Zhong et al., arXiv 2305.05189. The pictures come from users of Civitai, Lexica and Stable Diffusion Online.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sur_adapter.data.sources import folder

LICENCE = "terms of the sites SURD was gathered from"


def rows(*, path: str, limit: int | None = None) -> Iterator[dict]:
    """A row for each picture of a local copy, the first `limit` of them, with the published simple prompt; it tells no nsfw level.

    Raises FileNotFoundError where the folder or its metadata is missing, ValueError where metadata cannot be read.
    """
    if Path(path).is_dir() and not (Path(path) / "metadata.jsonl").is_file():
        raise FileNotFoundError(f"sources.surd.path: {path} holds no metadata.jsonl: name the folder of SURD that does")
    try:
        for row in islice(folder.rows(path=path), limit):
            yield row | {"source": "surd", "licence": LICENCE}
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(str(error).replace("sources.folder", "sources.surd")) from error
