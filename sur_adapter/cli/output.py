"""Output files of the command line: checks before the work, and a PNG that holds the settings it was generated with."""

import json
from pathlib import Path
from tempfile import TemporaryFile

from PIL import Image, PngImagePlugin

from sur_adapter.io.atomic import atomic_write

SETTINGS_CHUNK = "sur-adapter"  # text chunk of the PNG: the settings as JSON


def resolve_png(out: Path | None) -> Path:
    """Returns the file to write; by default the first of picture.png, picture-1.png, … that does not exist.

    Raises ValueError or FileNotFoundError if it cannot be written.
    """
    if out is None:
        out = unused_name(Path("picture.png"))
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out is {out}, but images are written as PNG: let its name end in .png")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out is {out}, but there is no folder {out.parent}: create it, or name another")
    if out.is_dir():
        raise ValueError(f"--out is {out}, which is a folder: name a file")
    check_writable(out.parent)
    return out


def unused_name(file: Path) -> Path:
    """Returns `file`, or the first of its names with -1, -2, … that does not exist."""
    names = (file.with_stem(f"{file.stem}-{k}" if k else file.stem) for k in range(10**6))
    return next(name for name in names if not name.exists())


def check_writable(folder: Path) -> None:
    """Raises ValueError if nothing can be written in `folder`; called before the work, so that no result is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"nothing can be written in {folder} ({error.strerror}): name another folder") from error


def save_png(image: Image.Image, file: Path, settings: dict) -> None:
    """Writes the image with its settings, atomically."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(SETTINGS_CHUNK, json.dumps(settings, ensure_ascii=False))
    with atomic_write(file) as part:
        image.save(part, "png", pnginfo=info)
