"""The import graph of the project, and the files that a stage needs."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from helpers.repository import ROOT

SOURCES = [path for folder in ("sur_adapter", "stages", "miniature", "experiments") for path in sorted((ROOT / folder).rglob("*.py"))]
PACKAGE_ROOT = ROOT / "sur_adapter/__init__.py"  # loads its names on first use


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_file(name: str) -> Path | None:
    """The project file of a dotted module name, or None if another project has it."""
    place = ROOT / name.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def imported_names(path: Path, type_checking: bool = True) -> set[tuple[str, str]]:
    """(module, name) of each import statement, at any depth; name is "" for `import module`.

    type_checking: whether imports for annotations alone, which never run, are counted.
    """
    skipped = set() if type_checking else {id(child) for node in _type_checking_blocks(parse(path)) for child in ast.walk(node)}
    names = set()
    for node in ast.walk(parse(path)):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {(alias.name, "") for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports are not used in this project"
            names |= {(node.module, alias.name) for alias in node.names}
    return names


def _type_checking_blocks(tree: ast.Module) -> list[ast.If]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]


@cache
def imported_files(path: Path, type_checking: bool = True) -> frozenset[Path]:
    """The project files that a file imports directly: modules, or packages whose own names it uses."""
    files = {module_file(f"{module}.{name}") or module_file(module) for module, name in imported_names(path, type_checking)}
    return frozenset(files - {None})


def carries_code(path: Path) -> bool:
    """False for an `__init__.py` that is empty or only a docstring."""
    return any(not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant) for node in parse(path).body)


@cache
def loaded_by_name(path: Path) -> frozenset[Path]:
    """Modules, and `__init__.py` of plug-in packages, that a file imports by name: texts in it such as "sur_adapter.data.sources"."""
    texts = {node.value for node in ast.walk(parse(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return frozenset({module_file(text) for text in texts if re.fullmatch(r"sur_adapter(\.\w+)+", text)} - {None})


def reached(start: Path) -> set[Path]:
    """The project files with code that run when `start` is imported and used, `start` included.

    Plug-ins count: each module of a package that a file loads by name. So do the `__init__.py` files on the way to a module, except for
    the lazy one of sur_adapter, which counts where a file imports a name from it.
    """
    seen, waiting = set(), [start]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if path == PACKAGE_ROOT:
            continue
        waiting += imported_files(path, type_checking=False)
        waiting += [parent for folder in path.parents if (parent := folder / "__init__.py").is_file() and parent != PACKAGE_ROOT]
        for module in loaded_by_name(path):
            waiting += module.parent.glob("*.py") if module.name == "__init__.py" else [module]
    return {path for path in seen if ROOT in path.parents and carries_code(path)}


def cycles(paths: Iterable[Path]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others (Tarjan's strongly connected components)."""
    number: dict[Path, int] = {}
    lowest: dict[Path, int] = {}
    stack: list[Path] = []
    groups: list[list[str]] = []

    def visit(path: Path) -> None:
        number[path] = lowest[path] = len(number)
        stack.append(path)
        for other in imported_files(path):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[path] = min(lowest[path], lowest[other])
        if lowest[path] == number[path]:
            group = stack[stack.index(path) :]
            del stack[stack.index(path) :]
            if len(group) > 1 or path in imported_files(path):
                groups.append(sorted(member.relative_to(ROOT).as_posix() for member in group))

    for path in paths:
        if path not in number:
            visit(path)
    return groups
