"""An interpreter that sees only the packages that `pip install .` installs."""

from importlib.metadata import PackageNotFoundError, packages_distributions, requires

from packaging.requirements import Requirement

HIDE_PACKAGES = """
import sys
from importlib.machinery import PathFinder
ABSENT = frozenset({absent!r})
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)
sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def installed_distributions(requirements: list[str]) -> set[str]:
    """The distributions that pip installs for these requirements, without extras, by normalized name."""
    seen, waiting = set(), list(map(Requirement, requirements))
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


def hide_other_packages(requirements: list[str]) -> str:
    """Code that hides each module that these requirements do not install."""
    kept = installed_distributions(requirements)
    absent = {top for top, names in packages_distributions().items() if not {n.lower().replace("_", "-") for n in names} & kept}
    return HIDE_PACKAGES.format(absent=sorted(absent))
