"""Builds of broad sentences, by kind and category: whole sentences with gaps, as broad.py names them.

{x} is all that is seen ("three red circles"): PHRASES say how.
"""

PLAIN = (
    "{x}", "{x}", "there {be} {x}", "here {be} {x}", "this page has {x}", "my drawing has {x}", "my notebook shows {x}", "note: {x}",
    "to draw: {x}", "sketch: {x}", "today I drew {x}", "yesterday I saw {x}", "last night I dreamed of {x}", "my sister drew {x}",
    "our teacher likes {x}", "I remember {x}", "we found {x}", "I am thinking of {x}", "on the card there {be} {x}", "the poster has {x}",
    "my brother's picture has {x}", "the artist made {x}", "on paper: {x}", "a child's drawing of {x}", "a sticker of {x}",
    "a logo with {x}", "the sign shows {x}", "it is all about {x}", "inside the frame there {be} {x}", "we bought a card with {x}",
    "my favorite picture is of {x}", "I just drew {x}", "grandma keeps a drawing of {x}", "a plain sketch, {x}", "content: {x}",
    "you will find {x}", "nothing but {x}", "simply {x}", "this time there {be} {x}", "in my head I see {x}",
)  # fmt: skip
REQUEST = (
    "could you draw {x}", "please draw {x}", "draw me {x}", "can you make {x} for me", "I would like {x}", "I want a picture of {x}",
    "give me {x}", "make {x}", "paint {x}", "let me see {x}", "sketch {x}", "I need {x}", "I'd love to see {x}", "show us {x}",
    "would you paint {x}", "please make me a picture with {x}", "I'm looking for {x}", "put {x} on the page", "create {x}",
    "generate {x}", "we need a drawing of {x}", "kindly draw {x}", "design a card with {x}", "try to draw {x}", "add {x}",
    "let's have {x}", "go ahead and draw {x}", "it would be nice to have {x}", "can I get {x}", "fill the page with {x}", "render {x}",
    "I was hoping for {x}", "you should draw {x}", "picture {x}", "imagine {x}", "all I want is {x}", "help me draw {x}",
)  # fmt: skip
REQUEST_CLOSES = (
    "",
    "",
    "",
    "",
    ", please",
    ", please",
    " for my book",
    ", thanks",
    " for a card",
    " if you can",
    " for the kids",
    ", thank you",
)
QUESTION = (
    "{be_} {that} {x}", "do you see {x}", "can you see {x}", "what about {x}", "how about {x}", "have you seen {x}", "did you draw {x}",
    "who drew {x}", "{be_} there {x} in the picture", "why {be} there {x} here", "what would {x} look like", "does the page show {x}",
    "do you like {x}", "where can I find {x}", "did my brother paint {x}", "how do you draw {x}", "what if we had {x}",
    "may I show you {x}", "shall I draw {x}", "does it show {x}", "who wants {x}", "isn't it nice to see {x}", "should there be {x}",
    "is this a drawing of {x}", "would you like {x}", "could that be {x}",
)  # fmt: skip
PASSIVE = (
    "{x} can be seen", "{x} {be} shown", "{x} {be} shown here", "{x} {was} drawn by my brother", "{x} {was} painted by a child",
    "{x} {have} been drawn", "{x} {be} printed on the card", "{x} should be drawn", "{x} can be found on the page", "{x} {was} wanted",
    "what was drawn is {x}", "what is shown is {x}", "the page is filled by {x}", "the card is decorated with {x}",
    "{x} {be} to be painted",
    "the picture was made to show {x}", "we were shown {x}", "I was asked to draw {x}", "on the wall {x} {was} painted",
    "{x} must be shown",
    "{x} will be drawn", "{x} {was} cut out of paper", "the poster is covered by {x}", "{x} {have} been painted on the wall",
)  # fmt: skip
NEGATION = (
    "no {ts_}, only {x}", "{x}, but no {ts_}", "{x} and no {ts_}", "without any {ts_}, just {x}", "{x}, without {ts_}",
    "I don't see anything but {x}", "instead of {ts_} draw {x}", "there are no {ts_}, there {be} {x}", "never mind {ts_}, just {x}",
    "not a {t_}, but {x}", "draw {x} instead of {ts_}", "there is nothing except {x}", "I did not want {ts_}, I wanted {x}",
    "no {ts_} please: {x}",
    "that is not a {t_}: I see {x}", "give me {x} rather than {ts_}", "forget everything else, no {ts_}, only {x}",
    "this is no {t_}, I see {x}",
)  # fmt: skip
OWN = {  # builds of a category and kind, beside those of all categories
    "counting": {
        "plain": ("{s}: {nn}, {cn}", "{c} {s}, {nn} in all", "the {s} {are} {c} and {they} number {nn}", "{s} in {cn}, {nn} of them"),
        "passive": (
            "{n} {s} {have} been painted {c}", "{n} {s} {were} colored {c} by hand", "the {nn} {s} on the page {were} painted {c}",
            "{n} {s} {were} drawn in {cn}", "{c} paint was used for {n} {s}",
        ),
        "negation": (
            "{n} {s} that {are} not {c_} but {c}", "not {n_} but {nn} {c} {s}", "{n} {s}, not {c_}, {c}", "{n} {s}, {c} rather than {c_}",
            "{n} {c} {s}, not {n_}", "I said {c} and not {c_}, {n} {s}", "{n} {s} in {cn} instead of {c_}",
            "{n} {s}, {c} and not {c_} at all",
        ),
        "two_sentences": (
            "There {are} {n} {s}. {They} {are} {c}.", "I see {n} {s}. {They} {are} all {c}.", "Draw {n} {s}. Paint {them} {c}.",
            "{They} {are} {c}. There {are} {n} {s}.", "{N} {s}. {C}.",
            "{C} {s}. Just {nn}.",
            "I want {n} {s}. Make {them} {c}.", "Look at the {s}. There {are} {nn} and {they} {are} {c}.",
            "My page has {n} {s}. I like {them} {c}.",
            "Count the {c} {s}. I get {nn}.", "We drew {n} {s}. The color is {c}.", "{N} {s}, please. In {cn}.",
        ),
        "relative": (
            "{n} {s} which {are} {c}", "{n} {s} that {are} {c}", "{n} {s} whose color is {c}", "{n} {s} that I painted {c}",
            "{n} {s} that somebody colored {c}", "a page that has {n} {c} {s}", "the picture that I like shows {n} {c} {s}",
            "the {s} that I see {are} {c}, {nn} in all", "a drawing in which {n} {s} {are} {c}", "{n} {c} {s} that my sister drew",
        ),
    },
    "color": {
        "plain": (
            "my {t1} is {c1} and my {t2} {c2}", "{t1}: {c1}, {t2}: {c2}", "{c1} {t1}, {c2} {t2}", "the {t1} is {c1}, the {t2} is {c2}",
        ),
        "passive": (
            "the {t1} was painted {c1} and the {t2} {c2}", "the {t1} has been colored {c1}, the {t2} {c2}",
            "a {t1} is drawn in {cn1} and a {t2} in {cn2}", "{a} was put beside {b}", "{a} is joined by {b}", "{a} is followed by {b}",
        ),
        "negation": (
            "a {t1} that is not {c1_} but {c1}, and {b}", "{a} and a {t2}, which is {c2}, not {c2_}",
            "the {t1} is {c1}, not {c1_}, and the {t2} is {c2}",
            "the {t1} is {c1} and the {t2} is {c2} instead of {c2_}", "{a}, no {ts_}, and {b}",
        ),
        "two_sentences": (
            "There is {a}. There is also {b}.", "I see a {t1} and a {t2}. The {t1} is {c1}, the {t2} is {c2}.",
            "Draw {a}. Put {b} beside it.",
            "The {t1} is {c1}. The {t2} is {c2}.", "I have {a}. You have {b}.", "Here is {a}. Near it is {b}.",
            "My {t1} is {c1}. My {t2} is {c2}.",
            "Make the {t1} {c1}. Make the {t2} {c2}.", "First came {a}. Then came {b}.", "Look at the {c1} {t1}. Next to it is {b}.",
            "{A}. {B}.", "I like the {c1} {t1}. She likes the {c2} {t2}.",
        ),
        "relative": (
            "a {t1} which is {c1} and a {t2} which is {c2}", "a {t1} that is {c1} beside {b}", "{a} and a {t2} whose color is {c2}",
            "a {t1} that I painted {c1} and a {t2} that I painted {c2}", "{a} that stays near {b}", "a picture which holds {a} and {b}",
            "{a} which is next to {b}", "a page that has {a} with {b}",
        ),
    },
    "action": {
        "plain": (
            "{t}, {c}, {doing}", "{c} {t}, {doing}", "this {c} {t} {does}", "my {c} {t} {does}", "my friend, a {c} {t}, {does}",
            "a {c} {t} {does}",
        ),
        "passive": (
            "{a} was drawn while {doing}", "the {t} was painted {c} and shown {doing}", "{a} can be seen {doing}", "{a} was caught {doing}",
            "{a} is shown {doing}", "{a} has been painted {doing}", "a {t} colored {c} was seen {doing}",
        ),
        "negation": (
            "{a} {doing}, not {doing_}", "{a} that is not {doing_} but {doing}", "a {t}, not {c_} but {c}, {doing}",
            "not a {t_}, it is {a} {doing}",
            "{a} is not {doing_}, {pro} {doing}", "no {t_}, just {a} {doing}", "the {t} in {cn} is {doing} instead of {doing_}",
            "a {doing1} {t}, {c} rather than {c_}", "{a} {doing} rather than {doing_}",
        ),
        "two_sentences": (
            "There is a {t}. {Pro} {c} and {pro} {doing}.", "I see {a}. {Pro} {doing}.", "Look at the {t}. {Pro} {c}, and {pro} {doing}.",
            "The {t} is {c}. {Pro} {doing}.", "Draw a {t} in {cn}. {Pro} {doing}.", "Here is {a}. Look, {pro} {doing}.", "{A}. {Doing}.",
            "Someone is {doing}. It is {a}.", "I drew {a}. {Pro} {doing}.", "A {t} {does}. {Pro} {c}.", "I met a {c} {t}. {Pro} {doing}.",
        ),
        "relative": (
            "a {t} {who} is {c} and {doing}", "{a} {who} is {doing}", "a {t} {who} is {doing}, all {c}",
            "a {t} whose color is {c}, {doing}",
            "the {t} {who} {does} is {c}", "a {c} {t}, {who_} {does}", "a drawing in which {a} {does}", "{a} {who} {does}",
            "a {t} that I painted {c}, {doing}",
            "the {c} {t} that I drew is {doing}",
        ),
    },
}  # fmt: skip
SHARED = {"plain": PLAIN, "synonym": PLAIN, "request": REQUEST, "question": QUESTION, "passive": PASSIVE, "negation": NEGATION}
JOINED = (
    " and ",
    " and ",
    " next to ",
    " beside ",
    " with ",
    " near ",
    " and also ",
    " together with ",
    " along with ",
    " close to ",
    " by ",
    ", ",
)
ANDS = (" and ", " and also ", ", ")  # of JOINED, those that need "are"
PHRASES = {
    "counting": (
        "{n} {c} {s}", "{n} {c} {s}", "{n} {c} {s}", "{n} {s} in {cn}", "{n} {s} painted {cn}", "{n} {s}, {c}", "{n} {s} of {cn} color",
        "{n} {s} that {are} {c}", "{n} {s} colored {cn}", "{n} {s} drawn in {cn}",
    ),
    "color": (
        "{a}|{b}", "{a}|{b}", "a {t1} in {cn1}|a {t2} in {cn2}", "a {t1} painted {cn1}|a {t2} painted {cn2}", "{a}|a {t2} in {cn2}",
        "a {t1} that is {c1}|{b}",
    ),
    "action": (
        "{a} {doing}", "{a} {doing}", "{a} {doing}", "{a} {who} is {doing}", "{a} {who} {does}", "a {t} in {cn}, {doing}",
        "a {t} dressed in {cn}, {doing}",
        "a {t} in {cn} {who} is {doing}", "a {t} wearing {cn}, {doing}",
    ),
}  # fmt: skip
OTHERS = ("horse", "dog", "cat", "tree", "house", "car", "flower", "bird", "fish", "boat")  # nouns to negate that no scene holds
