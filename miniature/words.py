"""What is said of a scene: keyword prompts as on prompt galleries, plain sentences, and how both are read back.

`complex_prompt`: "masterpiece, 3 circles, red, flat color, 8k": digits, noun tags, quality tags in random
number, order and place. `simple_prompt`: "there are three red circles in the picture": number words, articles,
synonyms, word order. Sentence templates are split: `train` for what reads, `development` and `test` for prompts that are drawn; what
describes pictures speaks the `phrases` of phrases.py.
"""

import re
from random import Random

from miniature.phrases import phrase
from miniature.scenes import ACTORS, COLORS, Scene
from miniature.silhouettes import POSES, SHAPES
from miniature.templates import TEMPLATES

QUALITY = (
    "masterpiece", "best quality", "8k", "4k", "highly detailed", "trending on artstation", "sharp focus",
    "award winning", "professional", "ultra detailed", "intricate", "octane render", "concept art", "hd", "cinematic lighting",
)  # fmt: skip
STYLE = ("flat color", "pictogram", "icon", "simple background", "white background", "vector art", "minimalism", "clean lines")

NUMBERS = {
    1: ("one", "a single"),
    2: ("two", "a pair of", "a couple of"),
    3: ("three", "a trio of"),
    4: ("four", "a quartet of"),
    5: ("five", "a handful of"),
}
COLOR_WORDS = {
    "red": ("red", "red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rosy"),
    "black": ("black",),
}
NOUNS = {
    "circle": ("circle", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "cross", "plus"),
    "moon": ("moon", "moon", "crescent"),
    "person": ("person", "person", "human", "figure"),
    "robot": ("robot", "robot", "android", "machine"),
}
PLURALS = {"box": "boxes", "cross": "crosses", "plus": "pluses"}
DOING = {  # (is …, that …s)
    "standing": (("standing", "standing still"), ("stands", "stands still")),
    "waving": (("waving", "waving hello"), ("waves", "waves hello")),
    "jumping": (("jumping", "leaping"), ("jumps", "leaps")),
    "running": (("running", "sprinting"), ("runs", "sprints")),
    "sitting": (("sitting", "sitting down"), ("sits", "sits down")),
    "lying": (("lying", "lying down"), ("lies", "lies down")),
}


def complex_prompt(scene: Scene, seed: int) -> str:
    """A keyword prompt for a scene; the seed chooses order and tags."""
    rng = Random(f"complex {seed} {scene.seed}")
    segments = _COMPLEX[scene.category](scene, rng)
    tags = rng.sample(QUALITY, rng.randint(0, 4)) + rng.sample(STYLE, rng.randint(0, 2))
    for tag in tags:
        ends = rng.random() < 0.8  # galleries put most tags around the content, some within it
        segments.insert(rng.choice((0, len(segments))) if ends else rng.randint(0, len(segments)), tag)
    return ", ".join(segments)


def _complex_counting(scene, rng):
    (entry,) = scene.include
    n, color = entry["count"], entry["color"]
    noun = entry["class"] if n == 1 else plural(entry["class"])
    return list(rng.choice(((f"{n} {noun}", color), (color, f"{n} {noun}"), (f"{n} {color} {noun}",), (f"{n} {noun}", f"{color} {noun}"))))


def _complex_color(scene, rng):
    things = [f"{t.color} {t.cls}" for t in rng.sample(scene.things, 2)]
    if rng.random() < 0.3:
        things = [f"1 {thing}" for thing in things]
    return ["2 shapes", *things] if rng.random() < 0.15 else things


def _complex_action(scene, rng):
    (t,) = scene.things
    who = rng.choice((f"1 {t.cls}", t.cls))
    return rng.sample((who, t.pose, t.color), 3) if rng.random() < 0.6 else rng.sample((f"{t.color} {t.cls}", t.pose), 2)


_COMPLEX = {"action": _complex_action, "color": _complex_color, "counting": _complex_counting}


def keywords(scene: Scene) -> str:
    """The one keyword prompt of a scene with nothing besides: "3 green circles", "red circle, blue square", "green robot, running"."""
    return ", ".join(map(_KEYWORDS[scene.category], scene.include))


_KEYWORDS = {
    "action": lambda e: f"{e['color']} {e['class']}, {e['pose']}",
    "color": lambda e: f"{e['color']} {e['class']}",
    "counting": lambda e: f"{e['count']} {e['color']} {e['class'] if e['count'] == 1 else plural(e['class'])}",
}


def simple_prompt(scene: Scene, seed: int, split: str = "train") -> str:
    """A plain sentence for a scene; the seed chooses template and words. split: "train" | "development" | "test" | "phrases"."""
    return templated_prompt(scene, seed, split)[1]


def templated_prompt(scene: Scene, seed: int, split: str) -> tuple[str, str]:
    """(template, sentence) of `simple_prompt`."""
    rng = Random(f"simple {seed} {scene.seed}")
    template = phrase(scene.category, rng) if split == "phrases" else rng.choice(TEMPLATES[scene.category][split])
    return template, _tidy(template.format(**_SIMPLE[scene.category](scene, rng)))


def _simple_counting(scene, rng):
    (entry,) = scene.include
    n = entry["count"]
    noun, color = rng.choice(NOUNS[entry["class"]]), rng.choice(COLOR_WORDS[entry["color"]])
    word = rng.choice(NUMBERS[n] if rng.random() < 0.4 else NUMBERS[n][:1])
    number = "a" if n == 1 and rng.random() < 0.6 else word
    s = noun if n == 1 else plural(noun)
    are, they, have = ("is", "it", "has") if n == 1 else ("are", "they", "have")
    gaps = {"n": number, "nn": NUMBERS[n][0], "s": s, "s1": noun, "c": color, "np": f"{number} {color} {s}"}
    return gaps | {"are": are, "they": they, "have": have}


def _simple_color(scene, rng):
    words = {}
    for i, t in enumerate(rng.sample(scene.things, 2), 1):
        noun, color = rng.choice(NOUNS[t.cls]), rng.choice(COLOR_WORDS[t.color])
        words |= {f"t{i}": noun, f"c{i}": color, f"t{i}_a": f"a {noun}", "ab"[i - 1]: f"a {color} {noun}"}
    return words


def _simple_action(scene, rng):
    (t,) = scene.things
    noun, color = rng.choice(NOUNS[t.cls]), rng.choice(COLOR_WORDS[t.color])
    doing, does = (rng.choice(forms) for forms in DOING[t.pose])
    return {"t": noun, "c": color, "t_a": f"a {noun}", "a": f"a {color} {noun}", "doing": doing, "does": does}


_SIMPLE = {"action": _simple_action, "color": _simple_color, "counting": _simple_counting}


def plural(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def _tidy(sentence: str) -> str:
    """ "a azure star" -> "an azure star"."""
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", sentence)


def _lexicon() -> dict[str, tuple[str, object]]:
    words = {str(n): ("count", n) for n in NUMBERS}
    for n, names in NUMBERS.items():
        words |= {name.removeprefix("a ").removesuffix(" of"): ("count", n) for name in names}
    words |= {word: ("color", color) for color, names in COLOR_WORDS.items() for word in names}
    for cls, names in NOUNS.items():
        words |= {form: ("class", cls) for noun in names for form in (noun, plural(noun))}
    for pose, (doing, does) in DOING.items():
        words |= {form.split()[0]: ("pose", pose) for form in doing + does}
    return words


LEXICON = _lexicon()


def read(text: str) -> list[dict] | None:
    """What a prompt of either style asks for, as an `include` list; None if it makes no sense in this world.

    Things and colours are paired in the order they are named: true of every sentence the world speaks.
    """
    found = {"count": [], "color": [], "class": [], "pose": []}
    for word in re.findall(r"[a-z0-9]+", text.lower()):
        if word in LEXICON:
            kind, value = LEXICON[word]
            found[kind].append(value)
    classes, colors, poses = found["class"], found["color"], found["pose"]
    if len(set(classes)) == 1 and len(set(colors)) == 1 and classes[0] in SHAPES and not poses and len(found["count"]) <= 1:
        return [{"class": classes[0], "count": (found["count"] or [1])[0], "color": colors[0]}]
    if len(classes) == len(colors) == 1 and classes[0] in ACTORS and len(poses) == 1 and set(found["count"]) <= {1}:
        return [{"class": classes[0], "count": 1, "color": colors[0], "pose": poses[0]}]
    if len(classes) == len(colors) == 2 and set(classes) <= set(SHAPES) and not poses and len(set(classes)) == 2:
        return [{"class": c, "count": 1, "color": k} for c, k in sorted(zip(classes, colors, strict=True))]
    return None


assert set(COLOR_WORDS) == set(COLORS) and set(NOUNS) == {*SHAPES, *ACTORS} and set(DOING) == set(POSES)
