"""An interpreter that has what `pip install .` brings, and no other package of this environment."""

from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement

BARE = """
import sys
from importlib.machinery import PathFinder
ABSENT = frozenset({absent!r})
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)
sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""


def brought(wanted: list[str]) -> set[str]:
    """The distributions that these requirements bring along, themselves included, without any extra."""
    seen, waiting = set(), list(map(Requirement, wanted))
    while waiting:
        requirement = waiting.pop()
        name = requirement.name.lower().replace("_", "-")
        if name not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            seen.add(name)
            try:
                waiting += map(Requirement, requires(name) or [])
            except PackageNotFoundError:
                continue
    return seen


def prelude(wanted: list[str]) -> str:
    """Code that hides every module that these requirements do not bring."""
    here = brought(wanted)
    absent = {top for top, names in packages_distributions().items() if not {n.lower().replace("_", "-") for n in names} & here}
    return BARE.format(absent=sorted(absent))
