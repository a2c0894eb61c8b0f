"""Facts that imply an attribute: things of a known colour, things that come in a known number, what makes someone take a pose.

`text` occur in the text-only training sentences. `near` and `far` are held out: only what the LLM reads holds them. A near one shares its
key word with a text one of the same value in another phrase ("a ripe tomato", "tomato soup"); a far one shares no content word with any.
"""

import re
from dataclasses import dataclass

KINDS = ("colour", "number", "pose")


@dataclass(frozen=True)
class Expression:
    """One fact. text: "a frog"; "a dog has legs"; "chases the bus". item: "leg of a dog" (number alone, else "").

    relative: of the held-out ones, whether a text expression shares the key word.
    """

    kind: str
    value: str | int
    text: str
    item: str = ""
    held_out: bool = False
    relative: bool = False


COLOUR = {  # the color of …
    "red": {
        "text": "a ripe tomato; a fire engine; fresh blood; a ripe strawberry; ketchup; the coat of Santa Claus; a cooked lobster; "
        "a clown's nose; a traffic light that says stop; a ripe raspberry; Superman's cape",
        "near": "tomato soup; a stop sign",
        "far": "a ladybug",
    },
    "orange": {
        "text": "a ripe pumpkin; a fresh carrot; a basketball; a traffic cone; a ripe clementine; Garfield the cat; a life jacket; "
        "a ripe persimmon; the shirt of the Dutch football team; a cooked sweet potato; a goldfish",
        "near": "pumpkin soup; carrot juice",
        "far": "a monarch butterfly",
    },
    "yellow": {
        "text": "a ripe banana; the petals of a sunflower; a school bus; butter; an egg yolk; a New York taxi; mustard; a dandelion; "
        "a rubber duck; sweet corn; Pikachu",
        "near": "a banana peel; corn on the cob",
        "far": "a daffodil",
    },
    "green": {
        "text": "fresh grass; a leaf in summer; a frog; a cucumber; spinach; a cactus; a traffic light that says go; garden peas; "
        "a Christmas tree; moss; a crocodile",
        "near": "the grass on a football field; a tree frog",
        "far": "parsley",
    },
    "blue": {
        "text": "a cloudless sky; the deep ocean; denim jeans; a Smurf; a swimming pool; Cookie Monster; a cornflower; the Facebook logo; "
        "a helmet of the United Nations; Sonic the hedgehog; lapis lazuli",
        "near": "the sky at noon; a denim jacket",
        "far": "a kingfisher",
    },
    "purple": {
        "text": "an eggplant; grape juice; Barney the dinosaur; the robe of a Roman emperor; a thistle flower; heather in bloom; "
        "a Cadbury wrapper; the Twitch logo; blooming wisteria; Thanos; ube ice cream",
        "near": "the skin of an eggplant; grape jelly",
        "far": "an aubergine",
    },
    "pink": {
        "text": "a flamingo; a piglet; bubblegum; cotton candy; Barbie's car; a ballerina's tutu; a breast cancer ribbon; Kirby; "
        "a cat's tongue; Himalayan salt; a slice of boiled ham",
        "near": "a flamingo feather; Barbie's dress",
        "far": "fairy floss",
    },
    "black": {
        "text": "a lump of coal; a raven; tar; chimney soot; a car tire; Darth Vader; a witch's hat; licorice; a hockey puck; crude oil; "
        "a grand piano",
        "near": "the inside of a coal mine; a bicycle tire",
        "far": "a crow",
    },
}
NUMBER = {  # as many as …; owner / parts / part, or a clause | an item
    1: {
        "text": "a unicorn/horns/horn; a face/noses/nose; an elephant/trunks/trunk; a cat/tails/tail; a teapot/spouts/spout; "
        "a wheelbarrow/wheels/wheel; a snail/shells/shell; a kangaroo/pouches/pouch; a peach/pits/pit; an orchestra/conductors/conductor; "
        "a cow/heads/head",
        "near": "a circus elephant/trunks/trunk; a unicorn in a fairy tale/horns/horn",
        "far": "a wine glass/stems/stem",
    },
    2: {
        "text": "a bird/wings/wing; a face/eyes/eye; a bicycle/wheels/wheel; a rabbit/ears/ear; a coin/sides/side; a duet/singers/singer; "
        "a game of chess/players/player; a bull/horns/horn; a nose/nostrils/nostril; a magnet/poles/pole; a walrus/tusks/tusk",
        "near": "a mountain bicycle/wheels/wheel; a bird in flight/wings/wing",
        "far": "a mouth/lips/lip",
    },
    3: {
        "text": "a tricycle/wheels/wheel; a traffic light/lamps/lamp; a common clover/leaves/leaf; a trident/prongs/prong; "
        "a hockey game/periods/period; a genie grants wishes|wish of a genie; Goldilocks meets bears|bear that Goldilocks meets; "
        "a milking stool/legs/leg; Neapolitan ice cream/flavors/flavor; a winners' podium/steps/step; a waltz/beats in a bar/beat in a bar",
        "near": "Neptune's trident/prongs/prong; an Olympic podium/steps/step",
        "far": "Donald Duck/nephews/nephew",
    },
    4: {
        "text": "a car/wheels/wheel; a dog/legs/leg; a year/seasons/season; a violin/strings/string; a deck of cards/suits/suit; "
        "a room/walls/wall; a horse/hooves/hoof; Mount Rushmore/faces/face; the Beatles had members|member of the Beatles; "
        "a basketball game/quarters/quarter; a compass shows main directions|main direction on a compass",
        "near": "a guard dog/legs/leg; the calendar year/seasons/season",
        "far": "an envelope/corners/corner",
    },
    5: {
        "text": "a hand/fingers/finger; a foot/toes/toe; a working week/days/day; the English alphabet/vowels/vowel; "
        "the Olympic flag/rings/ring; a basketball team has players on the court|player of a basketball team on the court; "
        "a limerick/lines/line; a nickel is worth cents|cent in a nickel; the body/senses/sense; a pentagon/sides/side; "
        "a play by Shakespeare/acts/act",
        "near": "a left hand/fingers/finger; a bare foot/toes/toe",
        "far": "the Torah/books/book",
    },
}
POSE = {  # a robot that …
    "standing": {
        "text": "waits in a queue; guards the palace gate; sings the national anthem; poses like a statue; gives a speech at a lectern; "
        "takes an elevator; is as straight as a lamp post; is measured against the wall; acts as a scarecrow in a field; takes a shower",
        "near": "has been in the queue for an hour; is on guard before the gate",
        "far": "washes dishes at the sink",
    },
    "waving": {
        "text": "says hi to a friend; hails a taxi; greets the neighbor across the street; bids farewell at the station; "
        "wants the waiter to notice; welcomes the guests from afar; signals to the rescue plane; moves a hand from side to side; "
        "thanks the crowd from the royal balcony; sees a friend off at the airport",
        "near": "stops a taxi with an arm in the air; makes a sign of farewell",
        "far": "tells the baby bye-bye",
    },
    "jumping": {
        "text": "is on a trampoline; plays hopscotch; uses a skipping rope; clears a hurdle; has no foot on the ground; "
        "tries to touch the ceiling; is on a pogo stick; flies over a fence; smashes the ball above the volleyball net; "
        "clears a puddle",
        "near": "enjoys the new trampoline; passes over the hurdle",
        "far": "imitates a grasshopper",
    },
    "running": {
        "text": "is late for the train; chases the bus; flees from a bear; hurries to the finish line; tries to catch a thief; "
        "escapes from a burning house; is in a great hurry; competes in a marathon; moves at full speed on the track; "
        "is about to miss the plane",
        "near": "has only seconds to reach the train; wants to win the marathon",
        "far": "carries the baton in the relay",
    },
    "sitting": {
        "text": "rests on a chair; waits on a park bench; watches a film from the sofa; reads in an armchair; rules from a throne; "
        "drinks at the bar on a stool; works at an office desk; eats at the dinner table; drives a tractor; plays the piano",
        "near": "has a wooden chair under the bottom; shares a bench with an old friend",
        "far": "is in the saddle",
    },
    "lying": {
        "text": "sleeps in bed; naps on a mattress; sunbathes on a towel; is tired and flat on the floor; snores in a sleeping bag; "
        "dreams under a blanket; has fainted; was knocked out by a boxer; rests in a hammock; is in a deep sleep",
        "near": "is in bed with a fever; naps in the afternoon",
        "far": "leaves the pitch on a stretcher",
    },
}


def _expression(kind, value, part, text):
    if kind != "number":
        words = (text, "")
    elif "|" in text:
        words = tuple(text.split("|"))
    else:
        owner, parts, single = text.split("/")
        words = (f"{owner} has {parts}", f"{single} of {owner}")
    return Expression(kind, value, *words, held_out=part != "text", relative=part == "near")


EXPRESSIONS: dict[str, dict[str | int, tuple[Expression, ...]]] = {
    kind: {
        value: tuple(_expression(kind, value, part, text) for part, texts in parts.items() for text in texts.split("; "))
        for value, parts in table.items()
    }
    for kind, table in zip(KINDS, (COLOUR, NUMBER, POSE), strict=True)
}
ALL = tuple(e for values in EXPRESSIONS.values() for expressions in values.values() for e in expressions)
_FORMS = sorted({form.lower() for e in ALL for form in (e.text, e.item) if form}, key=len, reverse=True)
_FORM = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, _FORMS))})(?![\w-])")


def mentions(text: str) -> list[str]:
    """The expressions that a text holds, in lower case and in their order; the longest where several begin alike."""
    return _FORM.findall(text.lower())
