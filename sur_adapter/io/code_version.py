"""Which code made something: a mark that changes when the code does, and with nothing else.

A commit's hash would change the files of an adapter with every commit, though nothing that made them did, and is not known before
the commit. The commit of an adapter is the one whose dvc.lock holds its hash.
"""

import ast
from hashlib import sha256
from pathlib import Path
from threading import Lock

PARSING = Lock()  # in CPython 3.11 two threads that parse at once can spoil each other's (SystemError: recursion depth mismatch)


def code_version(*files: str | Path) -> str:
    """Sixteen hex digits of source files of one project and every file that they import, at any depth, out of its packages."""
    waiting = [Path(file).resolve() for file in files]
    root = next(folder for folder in waiting[0].parents[1:] if not (folder / "__init__.py").exists())
    seen = set()
    while waiting:
        source = waiting.pop()
        if source not in seen and source.is_file():
            seen.add(source)
            waiting += [root / f"{module.replace('.', '/')}.py" for module in _imports(source)]
    digest = sha256()
    for source in sorted(seen):
        digest.update(source.relative_to(root).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _imports(source: Path) -> set[str]:
    """Every module that a file names in an import, wherever in it."""
    found, text = set(), source.read_text(encoding="utf-8")
    with PARSING:
        tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found
