"""More ways to say it than a list of templates holds: an opening, what is said, a closing.

What describes pictures (BLIP) has seen them described in many ways; what reads prompts (CLIP) has not. So the captioner speaks these
phrases, by the thousand, and no template of `development` or `test` is among them. Gaps as in templates.py; {be}: is or are, by what
follows.
"""

from random import Random

from miniature.templates import TEMPLATES

CLAUSES = 0.25  # share of whole sentences, which need no opening
BEFORE_THINGS = (
    "{}", "a picture of {}", "a picture with {}", "a picture that shows {}", "an image of {}", "an image with {}", "a drawing of {}",
    "a simple drawing of {}", "a drawing with {}", "a small painting of {}", "I see {}", "I can see {}", "you can see {}", "we can see {}",
    "what you see is {}", "what I see is {}", "look at {}", "look at this picture of {}", "this picture shows {}", "the picture shows {}",
    "this image shows {}", "the drawing shows {}", "the image has {} on it", "somebody drew {}", "someone has drawn {}",
    "somebody has painted {}", "it shows {}", "it is a picture of {}", "the picture is of {}", "in the picture I see {}",
    "in this image we see {}", "on the picture you see {}", "here I can see {}", "there on the white paper I see {}",
    "all you can see is {}", "nothing but {}", "only {}", "just {}", "this shows {}", "my drawing of {}", "please draw {}", "show me {}",
    "draw {}",
    "there {be} {}", "here {be} {}", "in the picture there {be} {}", "in this image there {be} {}", "there {be} {} here",
    "on the white background {be} {}", "on the paper there {be} {}", "in the middle {be} {}",
)  # fmt: skip
CLOSINGS = (
    "", "", "", "", " on a white background", " on white", " in the picture", " and nothing else", " and nothing more", " here",
    " in front of white", " on white paper",
)  # fmt: skip
JOINED = (
    " and ", " with ", " beside ", " near ", " next to ", " and also ", " together with ", " and then ", " close to ", " by ",
    " along with ", " and beside it ", " and near it ",
)  # fmt: skip
COLORED = (
    "{a}", "{a}", "{a}", "{t1_a} in {c1}", "{t1_a} painted {c1}", "{t1_a} of {c1} color", "{t1_a} that is {c1}", "{t1_a} colored {c1}",
)  # fmt: skip

THINGS = {
    "counting": (
        "{np}", "{np}", "{np}", "{n} {s} in {c}", "{n} {s} painted {c}", "{n} {s} of {c} color", "{n} {s} colored {c}",
        "{n} {s} that {are} {c}", "{n} {s} drawn in {c}",
    ),
    "color": tuple(x + joint + x.replace("1", "2").replace("{a}", "{b}") for x in COLORED for joint in JOINED),
    "action": (
        "{a} {doing}", "{a} {doing}", "{a} who is {doing}", "{a} that is {doing}", "{a} who {does}", "{a} that {does}",
        "{t_a} in {c} {doing}", "{t_a} in {c} who is {doing}", "{t_a} in {c} that {does}", "{t_a} dressed in {c} {doing}",
        "{t_a} dressed in {c} who {does}", "{t_a} that wears {c} and is {doing}", "{t_a} wearing {c} {doing}", "a {doing} {t} in {c}",
        "a {doing} {c} {t}",
    ),
}  # fmt: skip
SENTENCES = {
    "counting": (
        "{n} {s} {are} shown and {they} {are} {c}", "we see {n} {s}, {they} {are} {c}", "there {are} {n} {s} here and {they} {are} {c}",
        "{they} {are} {n} {s}, {c}", "{n} {s} {are} there, painted {c}", "{c} {are} the {n} {s} here", "{np} {are} here",
        "{np} {are} drawn here", "{np} {are} all there is", "{np} {are} to be seen", "the {s} {are} {c} and there {are} {n}",
    ),
    "color": (
        "the {t1} is {c1} and the {t2} is {c2}", "the {t1} here is {c1} while the {t2} is {c2}", "the {t1} is {c1}, the {t2} {c2}",
        "{t1_a} is {c1} and {t2_a} is {c2}", "you can see that the {t1} is {c1} and that the {t2} is {c2}",
        "in the picture the {t1} is {c1} but the {t2} is {c2}", "{a} is next to {b}", "{a} is beside {b}", "{a} is near {b}",
        "here is {a}, and there is {b}", "next to {a} is {b}", "beside {a} there is {b}",
        "near {a} you see {b}", "two shapes, {a} and {b}", "there is {a} and there is {b}", "both {a} and {b} are here",
        "first {a}, then {b}", "somebody painted the {t1} {c1} and the {t2} {c2}",
    ),
    "action": (
        "{a} is {doing}", "{a} {does}", "the {t} is {doing} and is {c}", "{t_a} in {c} is {doing}", "{t_a} dressed in {c} {does}",
        "the {t} wears {c} and is {doing}", "the {c} {t} is {doing}", "the {c} {t} {does}", "here {a} is {doing}", "here {a} {does}",
        "in the picture {a} {does}", "we see that the {c} {t} {does}", "you can see that {a} is {doing}", "the {c} {t} here is {doing}",
        "{doing} on a white background is {a}", "what {a} does is {doing}", "this {c} {t} {does}", "there {a} {does}",
        "the {t} is {c} and it {does}", "all in {c} the {t} {does}", "somebody drew {t_a} {doing}, all in {c}",
        "you can see how {a} {does}", "the picture shows how {t_a} in {c} {does}", "look how {a} {does}", "I see how the {c} {t} {does}",
    ),
}  # fmt: skip


def phrase(category: str, rng: Random) -> str:
    """A template by chance, of thousands; never one of prompts that are drawn (test: see tests/miniature)."""
    while (found := _phrase(category, rng)) in TEMPLATES[category]["development"]:
        continue
    return found


def _phrase(category: str, rng: Random) -> str:
    if rng.random() < CLAUSES:
        return rng.choice(SENTENCES[category]) + rng.choice(CLOSINGS)
    opening = rng.choice(BEFORE_THINGS).replace("{be}", "{are}" if category == "counting" else "is")
    return opening.replace("{}", rng.choice(THINGS[category])) + rng.choice(CLOSINGS)
