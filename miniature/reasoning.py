"""Sentences that imply an attribute in place of stating it: "a circle the color of grass", "as many stars as a dog has legs".

What is implied is one colour, the number or the pose; everything else is stated in broad words. Expressions (expressions.py) are split in
`text` and `held_out`, builds in `train` and `test`, so that a test can tell a new sentence from new knowledge; `wide` has the builds of
`train` and those of text_builds.WIDE, `development` those for prompts that nothing is trained on. Gaps as in broad.py, and
{f} {g} a phrase of the colour, {x} what has it, {clause} "a dog has legs", {item} "leg of a dog", {vp} "chases the bus".
"""

from random import Random

from miniature.broad import SEVERAL, SINGLE, fill, finish, gaps
from miniature.broad_builds import ANDS, JOINED, PASSIVE, PLAIN, QUESTION, REQUEST
from miniature.expressions import EXPRESSIONS, KINDS, Expression
from miniature.free_order import compose
from miniature.scenes import Scene
from miniature.text_builds import DEVELOPMENT, WIDE

LONGEST = 24  # words
SYNONYMS = 0.25  # share of stated words that are not the world's own
RARE = 0.65  # share of number or pose where a scene can imply colour too, as every scene can
WRAPPED = 0.7  # share of train sentences in which a plain, asking, questioning or passive build holds the phrase; others are whole
FRAMES = (
    "the color of {x}", "the color of {x}", "in the color of {x}", "with the color of {x}", "colored like {x}", "painted like {x}",
    "of the same color as {x}",
)  # fmt: skip
SAID = ("the color of {x}", "colored like {x}", "painted like {x}", "of the same color as {x}")  # after "is"
PHRASES = {  # what a build of broad_builds.py holds
    ("colour", "counting"): ("{n} {s} {f}", "{n} {s} {f}", "{n} {s} that {have} the color of {x}", "{n} {s}, {f}"),
    ("colour", "color"): ("a {t1} {f}|{b}", "{b}|a {t1} {f}", "a {t1} that has the color of {x}|{b}", "a {t2} in {cn2}|a {t1} {f}"),
    ("colour", "action"): (
        "a {t} {f}, {doing}", "a {doing1} {t} {f}", "a {t} {f} {who} is {doing}", "a {t} {f} {who} {does}", "a {t} {doing}, {f}",
        "a {t} {who} has the color of {x}, {doing}",
    ),
    ("number", "counting"): (
        "as many {c} {ss} as {clause}", "as many {c} {ss} as {clause}", "{c} {ss}, as many as {clause}", "as many {ss} in {cn} as {clause}",
        "a {c} {s1} for each {item}", "a {s1} in {cn} for each {item}", "a {c} {s1} for every {item}",
    ),
    ("pose", "action"): ("a {c} {t} {who} {vp}", "a {c} {t} {who} {vp}", "a {t} in {cn} {who} {vp}", "a {t}, all {c}, {who} {vp}"),
}  # fmt: skip
WHOLE = {
    ("colour", "counting"): (
        "the {nn} {s} {have} the color of {x}", "There {are} {n} {s}. {They} {have} the color of {x}.", "I see {n} {s}, colored like {x}",
        "Draw {n} {s}. Use the color of {x}.", "{n} {s} and {x} share a color", "{n} {s} {are} {g}", "the {s} {are} {g}, {nn} in all",
        "what color {are} the {nn} {s}? The color of {x}", "like {x}: {n} {s}", "in the color of {x}: {n} {s}",
    ),
    ("colour", "color"): (
        "the {t1} is {g} and the {t2} is {c2}", "the {t2} is {c2} and the {t1} is {g}", "There is {b}. Beside it is a {t1} {f}.",
        "the {t1} has the color of {x}, the {t2} is {c2}", "Draw {b}. Add a {t1} {f}.", "The {t2} is {c2}. The {t1} is {g}.",
    ),
    ("colour", "action"): (
        "the {t} {f} is {doing}", "There is a {t} {f}. {Pro} {doing}.", "the {t} {doing} has the color of {x}", "a {t} {f} {does}",
        "The {t} has the color of {x}. {Pro} {doing}.", "the {doing1} {t} is {g}", "the {t} {who} is {doing} is {g}",
    ),
    ("number", "counting"): (
        "the {ss} are {c}, as many as {clause}", "how many {c} {ss}? As many as {clause}", "There are {c} {ss}. As many as {clause}.",
        "The {ss} are {c}. There are as many as {clause}.", "for each {item} there is a {c} {s1}", "for each {item} draw a {c} {s1}",
        "{clause} and there are as many {c} {ss}", "{c} {ss}: as many as {clause}", "I see a {c} {s1} for each {item}",
    ),
    ("pose", "action"): (
        "a {c} {t} {vp}", "the {c} {t} {vp}", "this {t} in {cn} {vp}", "a {t}, {c} in color, {vp}", "look how a {c} {t} {vp}",
        "There is a {c} {t}. The {t} {vp}.", "The {t} is {c}. This {t} {vp}.", "I saw that a {c} {t} {vp}", "here a {c} {t} {vp}",
        "the {t} {who} {vp} is {c}", "we see a {t} in {cn}. The {t} {vp}.", "my {c} {t} {vp}", "you can see that the {c} {t} {vp}",
    ),
}  # fmt: skip
TEST = {  # other builds of much the same words
    ("colour", "counting"): (
        "look at {x}, then draw {n} {s} in that color", "what color is {x}? Paint {n} {s} with it", "{n} {s}, colored just as {x} would be",
        "go to {x} for the color, come to me for {n} {s}", "you would paint {n} {s} just as you paint {x}",
        "think of {x}: {n} {s} {have} that color",
        "{x} and {n} {s} in my picture look alike in color", "my brother wants {n} {s} to look like {x} in color",
    ),
    ("colour", "color"): (
        "look at {x}, then draw a {t1} in that color and {b}", "what color is {x}? Paint a {t1} with it, and add {b}",
        "take the color from {x} for the {t1}, but paint the {t2} {c2}", "my {t2} is {c2}, and my {t1} and {x} look alike in color",
        "{b} and a {t1}, colored just as {x} would be", "you would paint the {t1} just as you paint {x}, and the {t2} {c2}",
        "next to {b} my brother wants a {t1} to look like {x} in color",
    ),
    ("colour", "action"): (
        "look at {x}, then draw a {doing1} {t} in that color", "what color is {x}? Paint a {t} with it, {doing}",
        "take the color from {x} for a {t} {who} {does}", "a {t} {doing}, colored just as {x} would be",
        "you would paint the {doing1} {t} just as you paint {x}", "my brother wants a {doing1} {t} to look like {x} in color",
        "{x} and the {doing1} {t} here look alike in color",
    ),
    ("number", "counting"): (
        "you know that {clause}? Draw the same number of {c} {ss}", "{clause}: that is how many {c} {ss} I want",
        "just as {clause}, my picture has that many {c} {ss}", "so that no {item} feels left out, it gets a {c} {s1}",
        "count every {item} and draw the same number of {c} {ss}", "take the number of {c} {ss} from this: {clause}",
        "my brother painted {ss} in {cn} until every {item} had its own",
    ),
    ("pose", "action"): (
        "draw somebody who {vp}: a {t} in {cn}", "guess what: today a {c} {t} {vp} right here",
        "what would it look like if a {c} {t} {vp}?",
        "as my story begins, a {t} in {cn} {vp}", "nobody here {vp} but this {c} {t}",
        "at what point of the film do we learn that a {c} {t} {vp}?", "in the story that our teacher likes, some {t} in {cn} {vp}",
    ),
}  # fmt: skip
BUILDS = {"train": WHOLE, "free": {}, "test": TEST, "wide": WIDE, "development": DEVELOPMENT}
OLD, FREE = 0.25, 0.2  # shares of wide sentences that have a build of train, or none but parts in free order
WRAPS = tuple(build for build in (*PLAIN, *REQUEST, *QUESTION, *PASSIVE) if build != "{x}") + ("{x}",) * 12
SELECT = {
    "text": lambda e: not e.held_out,
    "held_out": lambda e: e.held_out,
    "near": lambda e: e.held_out and e.relative,
    "far": lambda e: e.held_out and not e.relative,
    "all": lambda e: True,
}


def reasoning(scene: Scene, seed: int, expressions: str = "text", builds: str = "train", kind: str | None = None) -> tuple[str, str]:
    """(kind, sentence) of a scene, as "reasoning/colour"; the seed chooses what is implied, expression, build and words.

    expressions: "text" | "held_out" | "near" | "far" | "all". builds: a name of BUILDS; those of "free" are parts in free order. kind:
    "colour" | "number" | "pose"; without it chance chooses, of what the scene can imply: an action pose or colour, a count number or
    colour, two things the colour of one.
    """
    kind, sentence, _ = reasoning_with_build(scene, seed, expressions, builds, kind)
    return kind, sentence


def reasoning_with_build(
    scene: Scene, seed: int, expressions: str = "text", builds: str = "train", kind: str | None = None
) -> tuple[str, str, str]:
    """(kind, sentence, build) as `reasoning` does; the build of a sentence in free order is ""."""
    if expressions not in SELECT or builds not in BUILDS:
        found = f"expressions {expressions!r}, builds {builds!r}"
        raise ValueError(f"{found}: expressions are {', '.join(SELECT)}, builds are {', '.join(BUILDS)}")
    if kind and (kind, scene.category) not in WHOLE:
        raise ValueError(f"a scene of category {scene.category!r} cannot imply {kind!r}: name one of {', '.join(implied(scene))}")
    rng = Random(f"reasoning {seed} {scene.seed} {expressions} {builds}")
    if kind is None:
        kind = _RARE[scene.category] if scene.category in _RARE and rng.random() < RARE else "colour"
    while True:
        words = gaps(scene, rng, SYNONYMS)
        expression = rng.choice([e for e in EXPRESSIONS[kind][_value(scene, kind, words)] if SELECT[expressions](e)])
        sentence, build = _sentence(scene, expression, builds, words, rng)
        if len(sentence.split()) <= LONGEST:
            return f"reasoning/{kind}", sentence, build


_RARE = {"action": "pose", "counting": "number"}
IMPLIED_BY = {kind: tuple(category for other, category in WHOLE if other == kind) for kind in KINDS}  # categories of scenes


def implied(scene: Scene) -> list[str]:
    """The kinds of attribute that a scene's sentences can imply."""
    return [kind for kind in KINDS if (kind, scene.category) in WHOLE]


def _value(scene, kind, words):
    if kind == "number":
        return len(scene.things)
    if kind == "pose":
        return scene.things[0].pose
    return words["color1"] if scene.category == "color" else scene.things[0].color


def _sentence(scene: Scene, expression: Expression, builds: str, words: dict[str, str], rng: Random) -> tuple[str, str]:
    category, kind, key = scene.category, expression.kind, (expression.kind, scene.category)
    if builds == "wide":
        builds = rng.choices(("train", "free", "wide"), (OLD, FREE, 1 - OLD - FREE))[0]
    if builds == "free":
        frame, said = (rng.choice(frames).format(x=expression.text) for frames in (FRAMES, SAID))
        return compose(scene, words, rng, expression, frame, said), ""
    if builds == "train" and rng.random() < WRAPPED:
        build = rng.choice(WRAPS)
        joint = rng.choice(JOINED)
        phrase = rng.choice(PHRASES[key]).replace("|", joint)
        if kind == "number":  # "there is a star for each leg", though there are four; "there are as many as"
            words |= SINGLE if phrase.startswith("a {") else SEVERAL
        elif category == "color" and build in PASSIVE and joint in ANDS:
            words |= SEVERAL
        question, build = build in QUESTION, fill(build, phrase)
    else:
        build, question = rng.choice(BUILDS[builds][key]), False
    filled = build.replace("{f}", rng.choice(FRAMES)).replace("{g}", rng.choice(SAID))
    words = words | {"x": expression.text, "clause": expression.text, "item": expression.item, "vp": expression.text}
    return finish(filled.format(**words), rng, question), build
