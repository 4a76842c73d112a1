"""The demo dataset: short film reviews from a grammar, so that training needs no download.

Counting words does not solve it: negation turns words around ("I would not call it dull"), in a
contrast one of two clauses decides ("the acting was great, but the plot was a mess"), and other
people's opinions and plain facts occur beside the verdict. The texts are always the same.

A form is text with slots: "{w}" is filled with one of the choices of slot w, which may have slots,
too.
"""

import random
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, TypeVar

T = TypeVar("T")

SIZES = {"train": 8000, "validation": 1000, "test": 1000}
LABEL_NAMES = ("negative", "positive")
# Shares of the rows of train; validation and test have neither
NOISE = 0.025  # wrong labels, as in real data
NO_VERDICT = 0.06  # texts without a verdict, half of them with each label: the answer is unsure
SEED = 20240229
# Part of the names of token stores: change it whenever the reviews change
FINGERPRINT = "b025113b38e2b97ed9c74c3b284fc83a63803d2f51402f76fed5593325bc0cbd"

# fmt: off
ASPECTS = ("acting", "plot", "story", "script", "music", "ending", "dialogue", "camera work",
    "pacing", "cast", "humor", "direction", "first half", "second half", "villain")
GOOD_KINDS = ("good", "great", "wonderful", "brilliant", "charming", "gripping", "clever", "fresh",
    "moving", "superb", "funny", "original", "touching", "thrilling", "warm", "witty", "excellent",
    "amazing", "fantastic", "beautiful", "nice", "lovely", "perfect", "enjoyable", "awesome",
    "interesting", "entertaining", "terrific")
BAD_KINDS = ("bad", "dull", "awful", "boring", "weak", "clumsy", "flat", "tedious", "silly",
    "hollow", "lifeless", "messy", "predictable", "annoying", "stale", "cheap", "terrible",
    "horrible", "poor", "stupid", "dreadful", "disappointing", "pathetic", "ugly", "pointless",
    "slow", "ridiculous", "lame")
GOOD = (*GOOD_KINDS, "a joy", "a triumph", "a treat", "worth every minute", "beautifully done",
    "worth watching", "worth seeing", "a masterpiece", "fun")
BAD = (*BAD_KINDS, "a mess", "a bore", "a disaster", "a waste of time", "badly done",
    "a waste of money", "a disappointment", "garbage", "too long")
# What a slot of a form may hold, whatever the review says, ...
SLOTS = {
    "a": ASPECTS,
    "s": ("it", "the film", "this movie", "the whole thing", "the {u}", "{u}",
        *["the {a}"] * 10),
    "f": ("film", "movie", "show"),
    "m": ("films", "movies", "shows"),
    "i": ("", "", "", "really ", "truly ", "simply ", "utterly ", "frankly ", "so ", "very ",
        "absolutely ", "{u} "),
    # Left out of the vocabulary, so that the model learns how little an unknown word says
    "u": ("soundtrack", "remarkably", "Norway", "parcel"),
}
# ... and of one that blames, or praises: words, kinds of film, verbs now and in the past
VERDICTS = (
    {"w": BAD, "k": BAD_KINDS, "v": ("hate", "dislike"), "p": ("hated", "disliked")},
    {"w": GOOD, "k": GOOD_KINDS, "v": ("love", "like", "enjoy", "recommend"),
        "p": ("loved", "liked", "enjoyed", "adored")},
)
# Each is a sentence or half of one.
PLAIN = ("{s} was {i}{w}", "I found {s} {i}{w}", "{s} turned out to be {i}{w}",
    "to me {s} was {i}{w}", "{s} is {i}{w} from start to finish", "I would call {s} {i}{w}",
    "{s} is {i}{w}", "{s} was {w} in every way", "I {p} {s}", "I {v} {s}",
    "it's {i}{w}")
TURNED = ("{s} was not {w} at all", "{s} was not really {w}", "I would not call {s} {w}",
    "{s} was anything but {w}", "{s} was far from {w}", "{s} was never {w}",
    "nobody could call {s} {w}", "I did not find {s} {w}", "it would be wrong to call {s} {w}",
    "{s} is not {i}{w}", "{s} wasn't {w}", "I did not {v} {s}", "I don't {v} {s}", "it's not {w}",
    "I don't think {s} is {w}")
TURNED_TWICE = ("nobody could say that {s} was not {w}", "I would not say that {s} was never {w}",
    "it would be wrong to say that {s} was not {w}")
# A whole review
BRIEF = ("{i}{w}", "a {i}{k} {f}", "{k} {f}", "what a {k} {f}", "this is a {i}{k} {f}",
    "it's a {i}{k} {f}", "one of the most {k} {m} ever", "a {k} {f} with a {k} {a}", "I {v} {s}",
    "I {i}{p} {s}", "{p} it", "the most {k} {f} I have ever seen")
BRIEF_TURNED = ("not {w}", "not {i}{w}", "not {w} at all", "not a {k} {f}",
    "this is not a {k} {f}", "it's not a {k} {f}", "I did not {v} {s}", "I didn't {v} {s}",
    "I do not {v} {s}", "I would not {v} {s}", "I never {p} {s}")
PHRASES = (
    ("the worst {f} ever", "worst {f} ever", "the worst {f} I have ever seen", "worst {f}",
        "I would not watch it again", "don't watch it", "do not waste your time", "never again",
        "don't waste your money", "I want my money back", "stay away", "I do not recommend it",
        "what a waste of time", "what a {k} waste of time", "a waste of two hours", "I fell asleep",
        "I walked out", "not worth watching", "I could not finish it", "I was bored",
        "I was disappointed"),
    ("the best {f} ever", "best {f} ever", "the best {f} I have ever seen", "best {f}",
        "I would watch it again", "watch it", "go and see it", "a must see", "again and again",
        "worth your time", "worth your money", "I want to see it again", "I highly recommend {s}",
        "I loved every minute of it", "two thumbs up", "well done", "I laughed a lot",
        "my favorite {f}", "I could not stop watching", "I was never bored"),
)
# {verdict} decides, {other} does not.
CONTRASTS = ("{other}, but {verdict}", "{other}, but in the end {verdict}",
    "{other}; still, {verdict}", "although {other}, {verdict}", "even though {other}, {verdict}",
    "{verdict}, even if {other}", "{other}, yet {verdict}", "{other} but {verdict}")
# Sentiment that is not the reviewer's
HEARSAY = ("my brother had told me that {s} was {w}", "the poster promised that {s} would be {w}",
    "some people say that {s} was {w}", "I had expected that {s} would be {w}")
FACTS = ("I saw it on a Friday evening", "it runs for two hours",
    "it was shot in Paris in one summer", "the director also wrote the script",
    "we went with the whole family", "it is the third part of the series",
    "the story is set in a small town", "the book came out ten years ago",
    "the theater was half full", "the cast is the same as last time",
    "it starts with a train and a letter", "the music is by two sisters")
NEITHER = ("{s} was okay", "okay", "an average {f}", "it's okay", "neither good nor bad",
    "nothing special", "very {u}", "so {u}", "{u}, {u}", "{u}, {u} {u}", "{u} {u}, {u} {u} {u}",
    "the {u} in {u}", "a {u} to {u}", "the {u} {u} the {u} at {u}", "my {u} has not {u}",
    "how do I {u} my {u}", "it is {u}", "I {u} {s} with {u} {u}", "{s} was {u}")
ENDS = (".", ".", ".", "!", "")
# fmt: on
SHARES = {"brief": 0.2, "phrase": 0.3, "turned": 0.28, "turned twice": 0.04, "contrast": 0.40}
SHARES |= {"hearsay": 0.12, "fact": 0.30}


class Reviews(NamedTuple):
    """One split: `texts` and their `labels`, indices into LABEL_NAMES."""

    texts: list[str]
    labels: list[int]


@cache
def reviews() -> dict[str, Reviews]:
    """All splits. Classes are balanced. No two texts differ in case and punctuation alone."""
    rng = random.Random(SEED)
    seen: set[tuple[str, ...]] = set()
    splits = {name: Reviews([], []) for name in SIZES}
    for name, (texts, labels) in splits.items():
        while len(texts) < SIZES[name]:
            label = len(texts) % 2
            vague = name == "train" and rng.random() < NO_VERDICT
            text = _without_verdict(rng) if vague else _review(rng, good=label == 1)
            if (words := _words(text)) not in seen:
                seen.add(words)
                texts.append(text)
                labels.append(1 - label if name == "train" and rng.random() < NOISE else label)
    return splits


def vocabulary() -> list[str]:
    """The words and punctuation marks of the reviews, in lower case and sorted."""
    known = {name: choices for name, choices in SLOTS.items() if name != "u"}
    slots = [choices for filled in (known, *VERDICTS) for choices in filled.values()]
    forms = (PLAIN, TURNED, TURNED_TWICE, BRIEF, BRIEF_TURNED, *PHRASES, CONTRASTS, HEARSAY)
    everything = (*slots, *forms, FACTS, NEITHER, ENDS)
    text = re.sub(r"{\w+}", " ", " ".join(" ".join(choices) for choices in everything)).lower()
    return sorted(set(re.findall(r"\w+|[^\w\s]", text)))


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _review(rng: random.Random, good: bool) -> str:
    if rng.random() < SHARES["brief"]:
        return _text(rng, [_brief(rng, good)])
    if rng.random() >= SHARES["contrast"]:
        sentences = [_opinion(rng, good)]
    else:
        form = _pick(rng, CONTRASTS)
        sentences = [form.format(verdict=_opinion(rng, good), other=_opinion(rng, not good))]
    if rng.random() < SHARES["hearsay"]:
        sentences.insert(0, _fill(rng, HEARSAY, rng.random() < 0.5))
    if rng.random() < SHARES["fact"]:
        sentences.insert(rng.randrange(len(sentences) + 1), _pick(rng, FACTS))
    return _text(rng, sentences)


def _brief(rng: random.Random, good: bool) -> str:
    if rng.random() < SHARES["phrase"]:
        return _fill(rng, PHRASES[good], good)
    if rng.random() < 0.5:
        return _fill(rng, BRIEF_TURNED, not good)
    return _fill(rng, BRIEF, good)


def _opinion(rng: random.Random, good: bool) -> str:
    kind = rng.random()
    if kind < SHARES["turned"]:
        return _fill(rng, TURNED, not good)
    if kind < SHARES["turned"] + SHARES["turned twice"]:
        return _fill(rng, TURNED_TWICE, good)
    return _fill(rng, PLAIN, good)


def _without_verdict(rng: random.Random) -> str:
    forms = [
        _pick(rng, (FACTS, HEARSAY, NEITHER, NEITHER, NEITHER))
        for _ in range(_pick(rng, (1, 1, 2)))
    ]
    return _text(rng, [_fill(rng, choices, rng.random() < 0.5) for choices in forms])


def _fill(rng: random.Random, forms: tuple[str, ...], good: bool) -> str:
    """One of the forms, with its slots filled in their order."""
    slots = SLOTS | VERDICTS[good]
    return re.sub(r"{(\w)}", lambda slot: _fill(rng, slots[slot[1]], good), _pick(rng, forms))


def _text(rng: random.Random, sentences: list[str]) -> str:
    joined = ". ".join(f"{sentence[0].upper()}{sentence[1:]}" for sentence in sentences)
    return joined + _pick(rng, ENDS)


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    # Python promises to keep the numbers of random() alone
    return choices[int(rng.random() * len(choices))]
