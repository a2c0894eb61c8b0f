"""`python -m miniature show [FILE] [--scenes N] [--seed S]` · `python -m miniature gallery [--count N] [--seed S]` ·
`python -m miniature prompts test|development [FOLDER] [--count N]`.

show     a sheet of scenes, each with a keyword prompt, a plain sentence of either split, and the judge's reading
gallery  serve the prompt gallery on loopback until Ctrl-C
prompts  write the prompts of a set, so many a category
"""

import argparse
from contextlib import suppress
from pathlib import Path
from textwrap import wrap
from threading import Event

from PIL import Image, ImageDraw, ImageFont

from miniature import judge
from miniature.gallery import Gallery
from miniature.prompts import write, write_development
from miniature.scenes import Scene, make
from miniature.words import complex_prompt, plural, simple_prompt

ZOOM, COLUMN = 2, 420  # pictures are shown twice as large; pixels a column of the sheet is wide
PROMPTS = {"test": write, "development": write_development}
FOLDERS = {"test": Path("prompts/miniature"), "development": Path("prompts/development")}
INK, SOFT, GOOD, BAD = (20, 20, 24), (110, 110, 118), (20, 120, 60), (200, 30, 30)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m miniature", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("show", help="write a sheet of scenes with both prompts and the judge's reading")
    show.add_argument("file", nargs="?", type=Path, default=Path("reports/miniature.png"))
    show.add_argument("--scenes", type=int, default=18)
    gallery = commands.add_parser("gallery", help="serve the prompt gallery on loopback")
    gallery.add_argument("--count", type=int, default=200)
    prompts = commands.add_parser("prompts", help="write the prompts of a set that are not hand-written")
    prompts.add_argument("set", choices=list(PROMPTS))
    prompts.add_argument("folder", nargs="?", type=Path, help="default: prompts/miniature for test, prompts/development for development")
    prompts.add_argument("--count", type=int, default=100)
    for command in (show, gallery):
        command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.command == "show":
        args.file.parent.mkdir(parents=True, exist_ok=True)
        sheet([make(args.seed + i) for i in range(args.scenes)]).save(args.file)
        print(args.file)
    elif args.command == "prompts":
        print(*PROMPTS[args.set](args.folder or FOLDERS[args.set], args.count), sep="\n")
    else:
        _serve(args.count, args.seed)


def _serve(count: int, seed: int) -> None:
    with Gallery(count, seed) as gallery:
        print(f"{gallery.url}/api/v1/images?withMeta=true  ({count} pictures, {len(gallery.faults)} with a fault; Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            Event().wait()


def sheet(scenes: list[Scene], columns: int = 3) -> Image.Image:
    """Scenes side by side with what is said of them and what the judge reads."""
    font = ImageFont.load_default(12)
    height = 64 * ZOOM + 16
    image = Image.new("RGB", (columns * COLUMN, -(-len(scenes) // columns) * height), (244, 244, 246))
    pen = ImageDraw.Draw(image)
    for i, scene in enumerate(scenes):
        left, top = i % columns * COLUMN + 8, i // columns * height + 8
        picture = scene.draw()
        image.paste(picture.resize((64 * ZOOM, 64 * ZOOM), Image.Resampling.NEAREST), (left, top))
        y = top
        for text, color in _lines(scene, judge.read(picture)):
            for line in wrap(text, 44):
                pen.text((left + 64 * ZOOM + 10, y), line, color, font)
                y += 15
    return image


def _lines(scene: Scene, reading: list[dict]):
    yield f"complex: {complex_prompt(scene, scene.seed)}", INK
    yield f"simple: {simple_prompt(scene, scene.seed)}", INK
    yield f"development: {simple_prompt(scene, scene.seed, 'development')}", SOFT
    seen = ", ".join(_told(e) for e in reading)
    right = judge.agree(reading, scene.include)
    yield f"judge: {seen or 'nothing'}{'' if right else '  WRONG'}", GOOD if right else BAD


def _told(entry: dict) -> str:
    noun = entry["class"] if entry["count"] == 1 else plural(entry["class"])
    return " ".join((str(entry["count"]), entry["color"], noun, entry.get("pose", ""))).strip()


if __name__ == "__main__":
    main()
