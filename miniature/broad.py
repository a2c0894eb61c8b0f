"""Broad plain English of every scene: requests, questions, passive voice, negation, two sentences, relative clauses, capitals, typos.

A sentence is composed of a build, noun phrases, synonyms (synonyms.py), a close and punctuation, by the thousand; it states every
attribute of its scene, and none of another. Builds have gaps, by category:
    all       {x} all that is seen ("three red circles"), {be} is/are, {was} was/were, {have} has/have, {that} that/those
    counting  {n} "three", {nn} "three" or "one", {s} "circles", {c} "red", {cn} "red" as a noun, {are} {were} {have} {they} {them},
              {s1} "circle" and {ss} "circles" in any number
    color     {a} {b} "a red circle", {t1} {t2} "circle", {c1} {c2} "red"
    action    {a} "a red robot", {t} "robot", {c} {cn}, {doing} "running", {doing1} in one word, {does} "runs", {pro} "he is", {who} that
    negated   {c_} another colour, {n_} another number, {t_} another noun, {ts_} in the plural, {doing_} another pose
"""

import re
from random import Random

from miniature.broad_builds import ANDS, JOINED, OTHERS, OWN, PHRASES, REQUEST_CLOSES, SHARED
from miniature.scenes import ACTORS, Scene
from miniature.silhouettes import POSES as POSE_NAMES
from miniature.silhouettes import SHAPES
from miniature.synonyms import ADJECTIVES, COLORS, LEXICON, NOUNS, NUMBERS, POSES, PRONOUNS, plural

LONGEST = 22  # words; longer sentences lose what their parts say
KINDS = {
    "plain": 0.16, "synonym": 0.16, "request": 0.13, "question": 0.08, "passive": 0.08, "negation": 0.10, "two_sentences": 0.11,
    "relative": 0.08,
}  # fmt: skip
SINGLE = {"be": "is", "be_": "is", "was": "was", "have": "has", "that": "that"}
SEVERAL = {"be": "are", "be_": "are", "was": "were", "have": "have", "that": "those"}
CAPITALS, TYPOS, SYNONYMS = 0.06, 0.10, 0.45  # shares of sentences with capitals or a typo; of words that are synonyms


def broad_prompt(scene: Scene, seed: int) -> str:
    """A broad plain sentence that states a scene; the seed chooses build and words."""
    return broad(scene, seed)[1]


def broad(scene: Scene, seed: int) -> tuple[str, str]:
    """(kind, sentence) of a scene, as "broad/request"; the same seed and scene give the same sentence."""
    rng = Random(f"broad {seed} {scene.seed}")
    while True:
        (kind,) = rng.choices(list(KINDS), KINDS.values())
        sentence = _sentence(scene, kind, gaps(scene, rng, 1.0 if kind == "synonym" else SYNONYMS), rng)
        if len(sentence.split()) > LONGEST:
            continue
        chance = rng.random()
        if chance < CAPITALS:
            return "broad/capitals", rng.choice((str.upper, str.upper, _title))(sentence)
        if chance < CAPITALS + TYPOS and (wrong := typo(sentence, rng)):
            return "broad/typo", wrong
        return f"broad/{kind}", sentence


def broad_sentence(scene: Scene, words: dict[str, str], rng: Random) -> str:
    """A broad sentence of any kind and length with given words, of `gaps`."""
    (kind,) = rng.choices(list(KINDS), KINDS.values())
    return _sentence(scene, kind, words, rng)


def _sentence(scene, kind, words, rng):
    joint = rng.choice(JOINED)
    phrase = rng.choice(PHRASES[scene.category]).replace("|", joint)
    own = OWN[scene.category].get(kind, ())
    build = rng.choice(own) if own and (kind not in SHARED or rng.random() < 0.5) else rng.choice(SHARED[kind])
    if scene.category == "color" and kind == "passive" and joint in ANDS:
        words |= SEVERAL
    build = fill(build, phrase)
    if kind == "request":
        close = rng.choice(REQUEST_CLOSES)
        build += "" if "please" in build and "please" in close else "," * (", " in phrase and close.startswith(" ")) + close
    return finish(build.format(**words), rng, question=kind == "question")


def fill(build: str, phrase: str) -> str:
    """A phrase in the place of {x}; one with a comma ("a star, azure") has another before what follows it."""
    return build.replace("{x} ", f"{phrase}, " if ", " in phrase else f"{phrase} ").replace("{x}", phrase)


def finish(sentence: str, rng: Random, question: bool = False) -> str:
    """a/an, the first letter, and the mark at the end."""
    sentence = re.sub(r"\b([Aa]) (?=[aeio]|u(?!ni))", r"\1n ", sentence, flags=re.IGNORECASE)
    if question:
        sentence += rng.choice(("?", "?", "?", "", "??"))
    elif sentence[-1] not in ".?":
        sentence += rng.choice(("", "", "", ".", ".", ".", "!", "..."))
    return sentence[0].upper() + sentence[1:] if rng.random() < 0.5 else sentence


def typo(sentence: str, rng: Random) -> str | None:
    """The sentence with two inner letters swapped, one dropped or one doubled in a word of 5 letters or more; None without one."""
    spans = [m.span() for m in re.finditer(r"\b[A-Za-z]{5,}\b", sentence)]
    for start, end in rng.sample(spans, len(spans)):
        word, at = sentence[start:end], rng.randrange(1, end - start - 2)
        wrong = word[:at] + rng.choice((word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1])) + word[at + 2 :]
        if wrong != word and wrong.lower() not in _NO_TYPO:
            return sentence[:start] + wrong + sentence[end:]
    return None


_NO_TYPO = {part for word in LEXICON for part in word.split()} | {"there", "back", "heat", "sated", "hoping"}  # words of their own


def _title(sentence: str) -> str:
    return " ".join(word[0].upper() + word[1:] for word in sentence.split())


def gaps(scene: Scene, rng: Random, synonyms: float) -> dict[str, str]:
    """What fills the gaps of a build; `synonyms` is the share of words that are not the world's own."""
    return _WORDS[scene.category](scene, rng, synonyms)


def _pick(names, rng, synonyms):
    """The first name, the world's own, or with the chance `synonyms` another."""
    return rng.choice(names[1:]) if len(names) > 1 and rng.random() < synonyms else names[0]


def _color(color, rng, synonyms):
    """(as adjective, as noun)"""
    noun = _pick(COLORS[color], rng, synonyms)
    return (rng.choice(ADJECTIVES[color]) if color in ADJECTIVES and rng.random() < synonyms / 6 else noun), noun


def _other(names, but, rng):
    return rng.choice([name for name in names if name not in but])


def _capital(words: dict[str, str], *names: str) -> dict[str, str]:
    return words | {name.capitalize(): words[name][0].upper() + words[name][1:] for name in names}


def _not_here(classes, rng):
    noun = _other(SHAPES, classes, rng) if rng.random() < 0.6 else rng.choice(OTHERS)
    return {"t_": noun, "ts_": plural(noun) if noun != "fish" else noun}


def _counting(scene, rng, synonyms):
    (entry,) = scene.include
    count, (adjective, noun) = entry["count"], _color(entry["color"], rng, synonyms)
    name = _pick(NOUNS[entry["class"]], rng, synonyms)
    n = "a" if count == 1 and rng.random() < 0.55 else _pick(NUMBERS[count], rng, synonyms)
    nn = rng.choice(NUMBERS[count][:2] if rng.random() < 0.3 else NUMBERS[count][:1])
    plain = {"c": adjective, "cn": noun, "n": n, "nn": nn, "s": name if count == 1 else plural(name), "s1": name, "ss": plural(name)}
    be = ("is", "was", "has", "it", "it") if count == 1 else ("are", "were", "have", "they", "them")
    plain |= dict(zip(("are", "were", "have", "they", "them"), be, strict=True))
    plain |= (SINGLE if count == 1 else SEVERAL) | {"n_": NUMBERS[_other(NUMBERS, (count,), rng)][0]}
    plain |= {"c_": _other(COLORS, (entry["color"],), rng)} | _not_here((entry["class"],), rng)
    return _capital(plain, "n", "c", "they")


def _pair(scene, rng, synonyms):
    words = SINGLE | _not_here([t.cls for t in scene.things], rng)
    for i, t in enumerate(rng.sample(scene.things, 2), 1):
        (adjective, noun), name = _color(t.color, rng, synonyms), _pick(NOUNS[t.cls], rng, synonyms)
        article = "one" if rng.random() < 0.05 else "a"
        words |= {f"t{i}": name, f"c{i}": adjective, f"cn{i}": noun, "ab"[i - 1]: f"{article} {adjective} {name}"}
        words[f"color{i}"] = t.color  # for no gap: what {c1} and {c2} mean
        words[f"c{i}_"] = _other(COLORS, [x.color for x in scene.things], rng)
    return _capital(words, "a", "b")


def _actor(scene, rng, synonyms):
    (t,) = scene.things
    (adjective, noun), name = _color(t.color, rng, synonyms), _pick(NOUNS[t.cls], rng, synonyms)
    person, poses = t.cls == "person", [_pick(forms, rng, synonyms) for forms in POSES[t.pose]]
    pronoun = PRONOUNS.get(name, "they") if person else "it"
    words = {"t": name, "c": adjective, "cn": noun, "a": f"a {adjective} {name}", "doing": poses[0], "does": poses[1]}
    words["doing1"] = poses[0] if " " not in poses[0] else POSES[t.pose][0][0]
    words |= {"pro": "they are" if pronoun == "they" else f"{pronoun} is"} | SINGLE
    words |= {
        "who": rng.choice(("who", "who", "that")) if person else rng.choice(("that", "that", "who")),
        "who_": "who" if person else "which",
    }
    words |= _not_here((), rng) | {"c_": _other(COLORS, (t.color,), rng), "doing_": _other(POSE_NAMES, (t.pose,), rng)}
    if rng.random() < 0.5:
        actor = _other(ACTORS, (t.cls,), rng)
        words |= {"t_": actor, "ts_": plural(actor)}
    return _capital(words, "a", "pro", "doing")


_WORDS = {"action": _actor, "color": _pair, "counting": _counting}
