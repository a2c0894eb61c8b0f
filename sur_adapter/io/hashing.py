"""SHA-256 digests of files, folders and bytes."""

import hashlib
from pathlib import Path


def file_digest(file: Path, algorithm: str = "sha256") -> str:
    """Returns the digest of a file as hex digits, 64 for SHA-256."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest()


def short_digest(*chunks) -> str:
    """Returns the first 16 hex digits of the SHA-256 of strings (as UTF-8) and bytes-like objects, one after the other."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk.encode() if isinstance(chunk, str) else chunk)
    return digest.hexdigest()[:16]


def folder_digest(folder: Path, pattern: str) -> str:
    """Returns the short digest of the names and contents of the files below `folder` that match `pattern`."""
    files = sorted(folder.rglob(pattern))
    return short_digest(*(part for file in files for part in (f"{file.relative_to(folder)}\0", bytes.fromhex(file_digest(file)))))
