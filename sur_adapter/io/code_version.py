"""Identifies the code that made a file: a digest of the source files behind it.

The hash of the git commit is not used: it changes with every commit, also with one that changes no code behind the file, and it is not
known before the commit. The commit of an adapter is the one whose dvc.lock holds the adapter's hash.
"""

import ast
from pathlib import Path
from threading import Lock

from sur_adapter.io.hashing import short_digest

PARSING = Lock()  # in CPython 3.11 two threads that parse at the same time can fail (SystemError: recursion depth mismatch)


def code_version(*files: str | Path) -> str:
    """Returns the short digest of source files of one project and of all files of the project that they import, directly or not."""
    waiting = [Path(file).resolve() for file in files]
    root = next(folder for folder in waiting[0].parents[1:] if not (folder / "__init__.py").exists())
    sources = set()
    while waiting:
        source = waiting.pop()
        if source not in sources and source.is_file():
            sources.add(source)
            waiting += [root / f"{module.replace('.', '/')}.py" for module in _imports(source)]
    names = {file: file.relative_to(root).as_posix() for file in sorted(sources)}
    return short_digest(*(part for file, name in names.items() for part in (name, b"\0", file.read_bytes(), b"\0")))


def _imports(source: Path) -> set[str]:
    """Lists the modules that a file imports, inside functions too."""
    text = source.read_text(encoding="utf-8")
    with PARSING:
        tree = ast.parse(text)
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules
