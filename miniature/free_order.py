"""Sentences whose parts come in any order: each attribute may have a part of its own ("black is the color", "there are five").

A list of builds fixes which attribute comes where; here the noun phrase states some attributes, parts beside it state the others, and
chance decides about order and joints. Any attribute may be implied instead (reasoning.py). Gaps as in broad.py and reasoning.py, and
{some} {these} {those} fit the number, {1} {2} are phrases of two things, {i} in a phrase stands for the number of its thing.
"""

from random import Random

from miniature.broad import fill, finish, gaps
from miniature.broad_builds import PASSIVE, PLAIN, QUESTION, REQUEST
from miniature.expressions import Expression
from miniature.scenes import Scene

LONGEST = 24  # words
SYNONYMS = 0.45  # share of words that are not the world's own
FIRST = 0.3  # share of sentences in which a part comes before the noun phrase
SHARED = 0.35  # share of noun phrases in a build of broad_builds.py
JOINTS = (", ", ", ", ", ", " and ", " and ", ", and ", ". ", ". ", "; ", ": ", " - ", "... ")
HOLDERS = (
    "{x}", "{x}", "{x}", "{x}", "here {be} {x}", "there {be} {x} to see", "you see {x}", "I can make out {x}", "we have {x}", "see {x}",
    "look, {x}", "somebody drew {x}", "what I have {be} {x}", "what you get {be} {x}", "on paper {x}", "this time {x}", "it has {x}",
    "{x} {be} here", "{x} {be} what I want", "{x} {be} all there is", "{x} {be} on the page", "oh, {x}", "well, {x}", "{x}, nothing more",
    "{x} on a card", "my page: {x}", "it must be {x}", "so {x} it is", "let it be {x}", "it is {x} that I mean",
)  # fmt: skip
HEADS = {  # noun phrases, by the attributes that they state: n number, c colour, p pose
    "counting": {
        "nc": ("{n} {c} {s}", "{n} {s} in {cn}", "{n} {s} painted {cn}", "{n} {c} {s}", "{n} {s} of {cn} color"),
        "n": ("{n} {s}", "{n} {s}", "the {nn} {s}"),
        "c": ("{some} {c} {s}", "{these} {c} {s}", "the {c} {s}", "{some} {s} in {cn}", "the {s} in {cn}", "{those} {c} {s}"),
        "": ("{some} {s}", "the {s}", "{these} {s}", "{those} {s}", "{some} {s}"),
    },
    "action": {
        "cp": ("a {c} {t} {doing}", "a {doing1} {c} {t}", "a {t} in {cn} {who} is {doing}", "a {doing1} {t} in {cn}",
        "a {c} {t} {who} {does}"),
        "c": ("a {c} {t}", "the {c} {t}", "a {t} in {cn}", "this {c} {t}", "a {t} painted {cn}", "a {t} dressed in {cn}", "some {c} {t}"),
        "p": ("a {doing1} {t}", "a {t} {who} is {doing}", "the {t} {who} {does}", "a {t} {doing}", "this {doing1} {t}"),
        "": ("a {t}", "the {t}", "this {t}", "some {t}", "that {t}"),
    },
}  # fmt: skip
PARTS = {  # of one attribute, beside the noun phrase
    ("counting", "n"): (
        "{nn} in all", "{nn} in total", "there {are} {nn}", "I count {nn}", "{nn} in number", "exactly {nn}", "you can count {nn}",
        "{nn} altogether", "{nn} and no more", "the number is {nn}", "{nn} {they} {are}", "count {them}, {nn}", "not more than {nn}",
        "the count is {nn}", "if I count right there {are} {nn}", "{nn} is how many", "make it {nn}", "we get {nn}",
    ),
    ("counting", "c"): (
        "{they} {are} {c}", "{they} {are} all {c}", "{c} {they} {are}", "{c} in color", "painted {c}", "{they} {have} been colored {c}",
        "the color is {c}", "{c} is the color", "in {cn}", "all in {cn}", "with {cn} as the color", "{c} all over", "for the color {cn}",
        "{they} came out {c}", "{c} as can be", "make {them} {c}", "colored in with {cn}", "{cn} was used", "paint {them} {c}",
        "{they} {have} {cn} for a color", "I would call {them} {c}", "as {c} as {they} can be", "drawn in {cn}",
    ),
    ("action", "c"): (
        "{pro} {c}", "{pro} all {c}", "the color is {c}", "{c} is the color", "{c} in color", "painted {c}", "in {cn}", "all in {cn}",
        "dressed in {cn}", "wearing {cn}", "{c} from head to foot", "{c} all over", "with {cn} as the color", "for the color {cn}",
        "as {c} as can be", "{pro} painted {c}", "I would call the color {c}", "drawn in {cn}", "{pro} dressed in {cn}", "quite {c}",
    ),
    ("action", "p"): (
        "{pro} {doing}", "{doing}", "{doing} as you see", "seen {doing}", "{doing} is what I see", "{pro} shown {doing}",
        "{doing} right now",
        "what I notice is the {doing1} pose", "while {doing}", "{pro} busy {doing}", "{pro} {doing} now", "drawn {doing}",
        "the pose is {doing}", "look how the {t} {does}", "the {t} {does}", "you see the {t} {doing}", "{doing} all the time",
        "here the {t} {does}",
    ),
}  # fmt: skip
IMPLIED = {
    ("counting", "n"): (
        "as many as {clause}", "as many as {clause}", "as many of them as {clause}", "the number: as many as {clause}",
        "enough for every {item}", "each {item} gets its own", "count as {clause}", "there are as many as {clause}",
        "so many, for {clause}",
        "the number follows from this, {clause}", "like this: {clause}", "you get the number when you know that {clause}",
    ),
    ("counting", "c"): (
        "{they} {have} the color of {x}", "the color is that of {x}", "the color of {x}", "for the color think of {x}", "colored like {x}",
        "in color {they} {are} like {x}", "paint {them} like {x}", "the same color as {x}", "{x} has this color too",
        "you know the color from {x}", "all with the color of {x}", "in the color of {x}", "what {x} has for a color, {they} {have} too",
        "this color is found on {x}", "it is the color of {x}",
    ),
    ("action", "c"): (
        "the color is that of {x}", "the color of {x}", "for the color think of {x}", "colored like {x}", "painted like {x}",
        "the same color as {x}", "{x} has this color too", "you know the color from {x}", "with the color of {x}", "in the color of {x}",
        "{pro} colored like {x}", "as if it had been dyed like {x}", "the color is found on {x}", "it is the color of {x}",
    ),
    ("action", "p"): (
        "the {t} {vp}", "the {t} {vp}", "this {t} {vp}", "you see how the {t} {vp}", "because the {t} {vp}", "as the {t} {vp}",
        "someone {who} {vp}", "here the {t} {vp}", "we catch the {t} as it {vp}", "that is how the {t} {vp}",
    ),
}  # fmt: skip
THING = (
    "{c{i}} {t{i}}", "{c{i}} {t{i}}", "a {c{i}} {t{i}}", "a {c{i}} {t{i}}", "a {t{i}} in {cn{i}}", "a {t{i}} painted {cn{i}}",
    "a {t{i}}, {c{i}}",
    "a {t{i}} of {cn{i}} color", "a {t{i}} which is {c{i}}", "a {t{i}} colored {cn{i}}", "the {c{i}} {t{i}}", "this {t{i}} in {cn{i}}",
    "something {c{i}}, a {t{i}}", "a {t{i}} that I made {c{i}}", "a {t{i}} with {cn{i}} all over it", "a {t{i}}, all {c{i}}",
)  # fmt: skip
IMPLIED_THING = (
    "a {t{i}} {f}", "a {t{i}} {f}", "the {t{i}} {f}", "a {t{i}}, {f}", "a {t{i}} which has the color of {x}",
    "a {t{i}} that is like {x} in color",
    "a {t{i}} with the same color as {x}", "something with the color of {x}, a {t{i}}", "a {t{i}} (color as of {x})",
    "this {t{i}}, colored like {x}",
)  # fmt: skip
TOGETHER = (
    "{1} and {2}", "{1} with {2}", "{1} next to {2}", "{1}, and close by {2}", "{1}, {2}", "{1} & {2}", "{1} as well as {2}",
    "{1}. Also {2}", "{1} and, at some distance, {2}", "not only {1} but also {2}", "{1} above {2}", "{1}; {2}",
)  # fmt: skip
PLACED = (  # whole sentences
    "beside {1} there is {2}", "by {1} you find {2}", "first {1}, after that {2}", "{1} is not far from {2}", "{1} here, {2} there",
    "{1} on the left, {2} on the right", "to the right of {1} I see {2}", "where you see {1}, you see {2} too", "{1} came with {2}",
    "{1} has {2} at its side", "apart from {1} there is also {2}", "there is {1}, but there is {2} too", "under {1} you can see {2}",
    "{1} shares the page with {2}", "with {1} goes {2}", "{1} stays close to {2}", "you see {1} and then you see {2}",
)  # fmt: skip
CLAUSE = (
    "the {t{i}} is {c{i}}", "the {t{i}} is {c{i}}", "{c{i}} is the color of the {t{i}}", "the {t{i}} has {cn{i}} as its color",
    "{cn{i}} for the {t{i}}", "the color of the {t{i}} is {c{i}}", "I see a {t{i}} in {cn{i}}", "the {t{i}} was painted {c{i}}",
    "as for the {t{i}}, it is {c{i}}", "a {t{i}} is {c{i}}", "the {c{i}} thing is a {t{i}}", "the {t{i}} came out {c{i}}",
    "{cn{i}} goes on the {t{i}}",
    "make the {t{i}} {c{i}}", "the {t{i}} must be {c{i}}", "you find a {t{i}}, it is {c{i}}", "{t{i}} in {cn{i}}",
    "a {t{i}} got {cn{i}} paint",
)  # fmt: skip
IMPLIED_CLAUSE = (
    "the {t{i}} is {g}", "the {t{i}} has the color of {x}", "the color of the {t{i}} is that of {x}", "the color of {x} for the {t{i}}",
    "as for the {t{i}}, it is like {x} in color", "the color of {x} goes on the {t{i}}", "make the {t{i}} look like {x} in color",
    "I see a {t{i}}, colored like {x}", "the {t{i}} was painted like {x}", "{x} and the {t{i}} have a color in common",
)  # fmt: skip
LISTED = (
    "{c1} and {c2}", "they are {c1} and {c2}", "in {cn1} and {cn2}", "the former {c1}, the latter {c2}", "{c1} and {c2} in this order",
    "the colors are {c1} and {c2}", "painted {c1} and {c2}", "colored {cn1} and {cn2} respectively", "their colors: {c1}, {c2}",
)  # fmt: skip


def free(scene: Scene, seed: int) -> str:
    """A sentence that states all that is seen in a scene, in free order; the seed chooses parts, order and words."""
    rng = Random(f"free {seed} {scene.seed}")
    while True:
        sentence = compose(scene, gaps(scene, rng, SYNONYMS), rng)
        if len(sentence.split()) <= LONGEST:
            return sentence


def compose(scene: Scene, words: dict[str, str], rng: Random, expression: Expression | None = None, frame: str = "", said: str = "") -> str:
    """A sentence in free order, of any length.

    words: of `gaps`, for the scene. expression: implies an attribute (a colour of two things is that of {t1}); frame and said: its colour
    as an attribute and after "is".
    """
    alone = scene.category != "counting" or len(scene.things) == 1
    words = words | dict(zip(("some", "these", "those"), ("a", "this", "that") if alone else ("some", "these", "those"), strict=True))
    words |= {"C": words["c"][0].upper() + words["c"][1:]} if "c" in words else {}
    if expression:
        words |= {"x": expression.text, "clause": expression.text, "item": expression.item, "vp": expression.text, "f": frame, "g": said}
    build = _two(rng, expression) if scene.category == "color" else _attributes(scene.category, rng, expression)
    return finish(build.format(**words), rng)


def _attributes(category: str, rng: Random, expression: Expression | None) -> str:
    """The build of a sentence about one thing or several alike."""
    implied = expression and {"number": "n", "colour": "c", "pose": "p"}[expression.kind]
    heads = HEADS[category]
    stated = rng.choice([kind for kind in heads if not implied or implied not in kind])
    parts = [attribute for attribute in max(heads, key=len) if attribute not in stated]
    rng.shuffle(parts)
    head = _hold(rng, rng.choice(heads[stated]))
    texts = [rng.choice((IMPLIED if attribute == implied else PARTS)[category, attribute]) for attribute in parts]
    before = len(texts) and rng.random() < FIRST
    return _join(rng, [*texts[:1], head, *texts[1:]] if before else [head, *texts])


def _two(rng: Random, expression: Expression | None) -> str:
    """The build of a sentence about two things; an expression implies the colour of the first."""
    first, second = ("1", "2") if rng.random() < 0.5 else ("2", "1")

    def one(number: str, plain: tuple[str, ...], implied: tuple[str, ...]) -> str:
        return rng.choice(implied if expression and number == "1" else plain).replace("{i}", number)

    form = rng.random()
    if form < 0.5:
        build = rng.choice(PLACED) if rng.random() < 0.5 else _hold(rng, rng.choice(TOGETHER))
        return build.replace("{1}", one(first, THING, IMPLIED_THING)).replace("{2}", one(second, THING, IMPLIED_THING))
    if form < 0.85 or expression:
        return _join(rng, [one(first, CLAUSE, IMPLIED_CLAUSE), one(second, CLAUSE, IMPLIED_CLAUSE)])
    return _join(rng, [_hold(rng, "a {t1} and a {t2}"), rng.choice(LISTED)])


def _hold(rng: Random, phrase: str) -> str:
    """A noun phrase in what holds it."""
    shared = rng.random() < SHARED
    return fill(rng.choice(rng.choice((PLAIN, REQUEST, QUESTION, PASSIVE)) if shared else HOLDERS), phrase)


def _join(rng: Random, parts: list[str]) -> str:
    """Parts with joints between them; after the end of a sentence the next one begins in upper case, if a word begins it."""
    text = parts[0]
    for part in parts[1:]:
        joint = rng.choice(JOINTS)
        text += joint + (_upper(part) if joint in (". ", "... ") else part)
    return text


def _upper(part: str) -> str:
    """Begins a sentence: a gap that has a form in upper case takes it."""
    for gap in ("{they}", "{c}", "{n}", "{pro}", "{doing}"):
        if part.startswith(gap):
            return "{" + gap[1:2].upper() + part[2:]
    return part[0].upper() + part[1:] if part[0].isalpha() else part
