"""Many English words for what the world holds; each names exactly one colour, number, class or pose of it.

`found` reads them back from a text. Words that could name two things of this world (teal, amber, indigo, ring) are left out.
"""

import re

COLORS = {  # adjectives that also stand as nouns: "a scarlet star", "a star in scarlet"
    "red": ("red", "scarlet", "ruby", "crimson", "cherry", "carmine", "ruby red", "cherry red", "bright red", "deep red", "dark red"),
    "orange": ("orange", "tangerine", "bright orange", "deep orange", "mandarin orange", "dark orange", "vivid orange"),
    "yellow": ("yellow", "gold", "lemon", "bright yellow", "lemon yellow", "canary yellow", "golden yellow", "light yellow"),
    "green": (
        "green", "emerald", "lime", "jade", "olive", "emerald green", "lime green", "forest green", "mint green", "bright green",
        "dark green",
    ),
    "blue": (
        "blue", "azure", "navy", "cobalt", "sapphire", "ultramarine", "navy blue", "cobalt blue", "royal blue", "bright blue", "dark blue",
    ),
    "purple": ("purple", "violet", "lilac", "lavender", "mauve", "plum", "amethyst", "deep purple", "royal purple", "dark purple"),
    "pink": ("pink", "rose", "hot pink", "baby pink", "rose pink", "bright pink", "light pink", "pale pink", "candy pink", "pastel pink"),
    "black": ("black", "jet-black", "jet black", "ebony", "onyx", "charcoal", "pitch-black", "pitch black", "deep black", "charcoal black"),
}  # fmt: skip
ADJECTIVES = {"yellow": ("golden",), "pink": ("rosy",), "black": ("inky",)}
NUMBERS = {
    1: ("one", "1", "a single", "just one", "exactly one", "a lone", "a solitary"),
    2: ("two", "2", "a pair of", "a couple of", "exactly two", "just two", "twin"),
    3: ("three", "3", "a trio of", "a triplet of", "exactly three", "just three"),
    4: ("four", "4", "a quartet of", "a foursome of", "exactly four", "just four"),
    5: ("five", "5", "a handful of", "a quintet of", "exactly five", "just five"),
}
NOUNS = {
    "circle": ("circle", "disc", "disk", "dot", "round shape", "round spot"),
    "square": ("square", "box", "square shape", "square tile"),
    "triangle": ("triangle", "triangular shape", "triangle shape"),
    "star": ("star", "star shape", "star symbol", "starry shape"),
    "heart": ("heart", "heart shape", "love heart", "heart symbol"),
    "cross": ("cross", "plus", "plus sign", "cross shape", "plus symbol"),
    "moon": ("moon", "crescent", "crescent moon", "sickle moon", "moon shape"),
    "person": ("person", "human", "human being", "individual", "man", "woman", "guy", "lady", "human figure", "figure"),
    "robot": ("robot", "android", "machine", "bot", "droid", "automaton", "humanoid robot", "mechanical man"),
}
PRONOUNS = {"man": "he", "guy": "he", "woman": "she", "lady": "she"}  # other people: they
POSES = {  # (is …, it …s)
    "standing": (
        ("standing", "standing still", "standing upright", "standing up", "standing up straight", "upright"),
        ("stands", "stands still", "stands upright", "stands up straight"),
    ),
    "waving": (
        ("waving", "waving hello", "greeting with a raised hand", "waving a hand", "waving goodbye", "raising a hand in greeting"),
        ("waves", "waves hello", "greets with a raised hand", "waves a hand", "waves goodbye"),
    ),
    "jumping": (
        ("jumping", "leaping", "hopping", "bouncing", "jumping up", "leaping high", "jumping up and down", "springing into the air"),
        ("jumps", "leaps", "hops", "bounces", "jumps up", "leaps high", "springs into the air"),
    ),
    "running": (
        ("running", "sprinting", "dashing", "racing", "jogging", "running fast", "dashing along", "rushing along"),
        ("runs", "sprints", "dashes", "races", "jogs", "runs fast", "dashes along", "rushes along"),
    ),
    "sitting": (
        ("sitting", "sitting down", "seated", "sitting quietly", "taking a seat"),
        ("sits", "sits down", "takes a seat", "sits quietly"),
    ),
    "lying": (
        ("lying", "lying down", "reclining", "lying flat", "stretched out", "lying stretched out", "sprawling"),
        ("lies", "lies down", "reclines", "lies flat", "sprawls"),
    ),
}  # fmt: skip
IRREGULAR = {
    "box": "boxes", "person": "people", "cross": "crosses", "plus": "pluses", "man": "men", "woman": "women", "lady": "ladies",
    "mechanical man": "mechanical men",
}  # fmt: skip


def plural(noun: str) -> str:
    return IRREGULAR.get(noun, noun + "s")


def _lexicon() -> dict[str, tuple[str, object]]:
    words = {}
    for color, names in COLORS.items():
        words |= dict.fromkeys((*names, *ADJECTIVES.get(color, ())), ("color", color))
    for n, names in NUMBERS.items():
        words |= {name.removeprefix("a ").removesuffix(" of"): ("count", n) for name in names}
    for cls, names in NOUNS.items():
        words |= {form: ("class", cls) for name in names for form in (name, plural(name))}
    for pose, forms in POSES.items():
        words |= {form: ("pose", pose) for part in forms for form in part}
    return words


LEXICON = _lexicon()
_WORD = re.compile(rf"(?<![\w-])(?:{'|'.join(re.escape(w) for w in sorted(LEXICON, key=len, reverse=True))})(?![\w-])")
_NEGATED = re.compile(r"\b(?:not|not want|never mind|no|nor|without|instead of|rather than)(?: an?| any)? $")


def found(text: str) -> dict[str, list]:
    """The colours, counts, classes and poses that a text states, in their order; what is negated ("not blue") is left out."""
    stated = {"count": [], "color": [], "class": [], "pose": []}
    text = text.lower()
    for match in _WORD.finditer(text):
        if not _NEGATED.search(text[: match.start()]):
            kind, value = LEXICON[match.group()]
            stated[kind].append(value)
    return stated
