"""SHA-256 digests of files and folders."""

from hashlib import file_digest
from pathlib import Path


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()
