"""Judges decide whether an image shows what its prompt asks for.

To add one, write `<name>.py` in this folder with the attributes of `Judge`; `evaluate.judge: <name>` in params.yaml selects it.
Verdicts are cached by image, prompt, settings, model files and the module's code, so a judge sees each image once.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import ArrayLike
from PIL.Image import Image


class Judge(Protocol):
    """A module of this folder."""

    FINDINGS: dict[
        str, tuple[str, ...]
    ]  # may be missing: columns of confusion.FINDINGS -> names; their values are indices of names, or NaN
    Config: type  # frozen dataclass of its settings, the keys of params.yaml: evaluate.judge.<name>; may be empty

    def verdicts(self, images: Sequence[Image], prompts: Sequence[dict], config: Any) -> ArrayLike:
        """Judges each image. Returns (N,) or (N, 1 to 3), or (N, 3 + len(FINDINGS)).

        First column: 1 if the image shows all that its prompt asks for and nothing else, else 0. Second column, if the judge gives one: the
        probability of that, 0 to 1. Third column, if the judge counts: the number of things of the class that a counting prompt asks for
        (confusion.requested_count). NaN in the second and third column: no such number. Further columns: FINDINGS.

        images: RGB, of any size. prompts: the row of the prompt list (generation/prompts.py) that each image was generated for, with
        `include` and `exclude` for judges that look for things, `atoms` for judges that answer questions.
        Raises ValueError with the id of a prompt that the judge cannot judge, FileNotFoundError for a missing model.
        """
