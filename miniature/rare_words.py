"""Sentences with names that only the LLM has read, and no other model of the miniature: "a kid on the run, all vermilion".

Builds are those of broad.py and free_order.py. Some sentences are long, British, misspelt or in capitals. Each word names one colour,
number, class or pose of this world; none is in synonyms.py or part of a held-out expression.
"""

import re
from random import Random

from miniature.broad import broad_sentence, fill, finish, gaps, typo
from miniature.broad_builds import JOINED, PHRASES
from miniature.free_order import compose
from miniature.scenes import Scene
from miniature.synonyms import IRREGULAR

LONGEST = 28  # words
RARE, SYNONYMS = 0.55, 0.3  # share of words that are rare; of the others, that are synonyms of synonyms.py
BRITISH, CAPITALS, TYPOS, LONG, FREE = 0.3, 0.06, 0.15, 0.2, 0.5  # shares of sentences
COLORS = {
    "red": "vermilion, brick red, tomato red, blood-red, burgundy, maroon, cardinal red, rust red, wine red, fire red, reddish",
    "orange": "apricot, carrot orange, orange-colored, burnt orange, neon orange, sunset orange, orangey, fiery orange",
    "yellow": "maize yellow, saffron, straw yellow, sunny yellow, sun-yellow, buttery yellow, yellowish, blond, neon yellow, corn yellow",
    "green": "grass green, leaf green, shamrock green, bottle green, viridian, pea green, sea green, apple green, greenish, avocado green",
    "blue": "sky blue, sky-blue, cerulean, ocean blue, sea blue, midnight blue, steel blue, bluish, electric blue, baby blue, ice blue",
    "purple": "grape purple, orchid, mulberry, purplish, heliotrope, plum purple, dark violet, light purple, bright purple, pansy purple",
    "pink": "salmon pink, coral pink, blush pink, carnation pink, pinkish, rose-colored, neon pink, soft pink, powder pink, shocking pink",
    "black": "sable, night black, ink-black, midnight black, blackish, obsidian, coal-black, raven black, black as night, velvet black",
}
NUMBERS = {
    1: "only one, one single, one lonely, not more than one",
    2: "a duo of, a brace of, two matching, both, a twosome of, two separate",
    3: "a threesome of, three separate, a triad of, three little, three whole",
    4: "four little, a set of four, four whole, a group of four, four separate",
    5: "five little, a group of five, half of ten, five whole, a bunch of five, five separate",
}
NOUNS = {
    "circle": "ball, orb, globe, sphere, coin, bubble, marble, plate, round thing, button, round blob, pellet, round dot",
    "square": "block, cube, crate, four-sided shape, square block, floor tile, quadrangle, checker tile, square thing, square field",
    "triangle": "pyramid, wedge, three-cornered shape, delta, three-sided shape, trilateral, triangular thing, tent shape, "
    "pointed hat shape",
    "star": "asterisk, five-pointed shape, sheriff's badge, little star, pointed star, star sticker, starlet, twinkling star, "
    "Christmas star",
    "heart": "valentine, love symbol, love sign, valentine heart, sign of love, heart sticker, sweetheart shape, romantic symbol",
    "cross": "addition sign, addition symbol, crucifix, plus mark, plus shape, first-aid cross, crossing, hospital sign, sign for adding",
    "moon": "half moon, lunar sickle, new moon, half-moon, lunar crescent, croissant shape, waning moon, night moon, sickle of the moon",
    "person": "kid, child, boy, girl, dude, fellow, pedestrian, adult, teenager, stick figure, gentleman, grandpa, chap, worker",
    "robot": "cyborg, tin creature, mechanical being, steel being, mech, artificial being, humanoid machine, robotic helper, "
    "service robot, metal creature",
}
DOING = {  # (is …, it …s)
    "standing": (
        "on both feet, standing tall, standing at attention, erect, motionless on two feet, standing around, "
        "up on two legs, planted on the ground",
        "stands tall, stays on both feet, stands at attention, stands around, remains upright, just stands there",
    ),
    "waving": (
        "greeting somebody, signaling hello, giving a wave, flapping a hand, beckoning, saying hello with a hand, "
        "holding up a hand to greet",
        "greets somebody, signals hello, gives a wave, beckons, says hello with a hand, holds up a hand to greet",
    ),
    "jumping": (
        "vaulting, skipping, in mid-air, up in the air, bounding, taking a leap, making a jump, off the ground, "
        "hopping about, leaping for joy",
        "vaults, skips, bounds, takes a leap, makes a jump, leaves the ground, hops about, leaps for joy",
    ),
    "running": (
        "on the run, speeding, galloping, trotting, hurrying along, on a jog, at a sprint, bolting, scurrying, "
        "going for a run, making haste",
        "speeds along, gallops, trots, hurries along, bolts, scurries, goes for a run, makes haste",
    ),
    "sitting": (
        "perched, on a seat, on its bottom, settled on a seat, sat down, in a sitting position, squatting down, having a seat",
        "perches, has a seat, is sat down, settles on a seat, squats down, occupies a seat",
    ),
    "lying": (
        "flat on its back, resting on the ground, lounging, prone, laid down, on the floor, horizontal, flat out, in a lying position",
        "rests on the ground, lounges, is laid down, rests flat, sprawls on the floor, lies on its back",
    ),
}
PLURALS = IRREGULAR | {"child": "children", "boy": "boys"}
LONG_BUILDS = (
    "I would like to have a sheet of paper with {x} on it", "for the invitation to our party we need {x}", "for the school poster: {x}",
    "my nephew asked me whether I could draw {x} for him", "if it is not too much work, please draw {x}", "the teacher told us to draw {x}",
    "there is not much in this picture, really just {x}",
    "on a large and otherwise empty page you see {x}",
    "grandma would like {x} on her cake",
    "as a logo for our club we thought of {x}", "what I had in mind for the cover of the book is {x}", "the kids next door would love {x}",
    "the client called, now they want {x}", "I know it sounds odd, but draw {x}", "in the corner of my notebook I once drew {x}",
    "in a place that nobody looks at somebody had drawn {x}", "you may put it where you like, but I want {x}", "quick sketch, please: {x}",
)  # fmt: skip


def rare(scene: Scene, seed: int) -> str:
    """A sentence that states all that is seen in a scene, in part by rare words; the seed chooses build and words."""
    rng = Random(f"rare {seed} {scene.seed}")
    while True:
        words = _rarer(scene, gaps(scene, rng, SYNONYMS), rng)
        if rng.random() < LONG:
            phrase = rng.choice(PHRASES[scene.category]).replace("|", rng.choice(JOINED))
            sentence = finish(fill(rng.choice(LONG_BUILDS), phrase).format(**words), rng)
        else:
            sentence = compose(scene, words, rng) if rng.random() < FREE else broad_sentence(scene, words, rng)
        if len(sentence.split()) > LONGEST:
            continue
        if rng.random() < BRITISH:
            sentence = re.sub(r"\b([Cc])olor", r"\1olour", sentence).replace("avorite", "avourite")
        chance = rng.random()
        if chance < CAPITALS:
            return rng.choice((str.upper, str.title))(sentence)
        return (typo(sentence, rng) or sentence) if chance < CAPITALS + TYPOS else sentence


def _rarer(scene: Scene, words: dict[str, str], rng: Random) -> dict[str, str]:
    """The gaps with some words exchanged for rare ones."""

    def pick(names: str, usual: str) -> str:
        return rng.choice(names.split(", ")) if rng.random() < RARE else usual

    words = dict(words)
    if scene.category == "color":
        for i, letter in (("1", "a"), ("2", "b")):
            (cls,) = {t.cls for t in scene.things if t.color == words[f"color{i}"]}
            words[f"t{i}"], color = pick(NOUNS[cls], words[f"t{i}"]), pick(COLORS[words[f"color{i}"]], "")
            words |= {f"c{i}": color, f"cn{i}": color} if color else {}
            words[letter] = f"a {words[f'c{i}']} {words[f't{i}']}"
        return words | {"A": words["a"].capitalize(), "B": words["b"].capitalize()}
    thing = scene.things[0]
    if color := pick(COLORS[thing.color], ""):
        words |= {"c": color, "cn": color, "C": color.capitalize()}
    if scene.category == "counting":
        one, several = len(scene.things) == 1, words["ss"]
        noun = pick(NOUNS[thing.cls], words["s1"])
        several = several if noun == words["s1"] else plural(noun)
        words |= {"s1": noun, "ss": several, "s": noun if one else several}
        if rng.random() < RARE / 2:
            words["n"] = rng.choice(NUMBERS[len(scene.things)].split(", "))
        return words | {"N": words["n"].capitalize()}
    words["t"] = pick(NOUNS[thing.cls], words["t"])
    if rng.random() < RARE:
        doing, does = (rng.choice(forms.split(", ")) for forms in DOING[thing.pose])
        words |= {"doing": doing, "does": does, "Doing": doing.capitalize()}
    return words | {"a": f"a {words['c']} {words['t']}", "A": f"A {words['c']} {words['t']}"}


def plural(noun: str) -> str:
    """Of a rare noun: its last word, or the one before "of", in the plural."""
    head, of, rest = noun.partition(" of ")
    *before, last = head.split(" ")
    regular = last[:-1] + "ies" if last.endswith("y") else last + "s"
    return " ".join([*before, PLURALS.get(last, regular)]) + of + rest
