"""The contract of a source of sentences. To add one, write sur_adapter/data/sentences/<name>.py and name it under `sentences.sources`.

A row is a dict with

    sentence      a plain sentence, as a person would write it
    kind          what it is about, such as "reasoning/colour"; counted in the report; "" where unknown (default)
    expected      the known right keyword prompt; it measures the language model and is never trained on (default None)
    answer        a ready keyword prompt; the language model is then not asked for this sentence (default None)
    mean_logprob  mean log-probability of the answer's tokens, if `answer` came with it (default None)
    min_logprob   the least of them (default None)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol


class SentenceSource(Protocol):
    """A module of this package. Config: a frozen dataclass of its keys in params.yaml."""

    Config: type

    def rows(self, config: Any, pairs: Path) -> Iterator[dict]:
        """Yields a row for each sentence, always in the same order.

        pairs: the table that the filter wrote, for sources that read the captions of images. Raises ValueError or FileNotFoundError, one
        sentence, if the source cannot be read.
        """
        ...
