"""The demo dataset: short film reviews from a grammar, so that training needs no download.

Counting words does not solve it: negation turns words around ("I would not call it dull"), in a
contrast one of two clauses decides ("the acting was great, but the plot was a mess"), and other
people's opinions and plain facts occur beside the verdict. The texts are always the same.
"""

import random
import re
from functools import cache
from typing import NamedTuple

SIZES = {"train": 8000, "validation": 1000, "test": 1000}
LABEL_NAMES = ("negative", "positive")
NOISE = 0.025  # share of wrong labels in train, as in real data; validation and test are clean
SEED = 20240229
# Part of the names of token stores: change it whenever the reviews change
FINGERPRINT = "14d1b0beedd82707bf16b8ad423e380bb600d866049b59dcfb8eef338b5844c6"

# fmt: off
ASPECTS = ("acting", "plot", "story", "script", "music", "ending", "dialogue", "camera work",
    "pacing", "cast", "humour", "direction", "first half", "second half", "villain")
GOOD = ("great", "wonderful", "brilliant", "charming", "gripping", "clever", "fresh", "moving",
    "superb", "funny", "original", "touching", "thrilling", "warm", "witty", "a joy", "a triumph",
    "a treat", "worth every minute", "beautifully done")
BAD = ("dull", "awful", "boring", "weak", "clumsy", "flat", "tedious", "silly", "hollow",
    "lifeless", "messy", "predictable", "annoying", "stale", "cheap", "a mess", "a bore",
    "a disaster", "a waste of time", "badly done")
INTENSITY = ("", "", "", "really ", "truly ", "simply ", "utterly ", "in every way ", "frankly ",
    "so ")
# {a}: an aspect; {w}: praise or blame; {i}: an intensity. Each is a sentence or half of one.
PLAIN = ("the {a} was {i}{w}", "I found the {a} {i}{w}", "the {a} turned out to be {i}{w}",
    "to me the {a} was {i}{w}", "the {a} is {i}{w} from start to finish",
    "I would call the {a} {i}{w}")
TURNED = ("the {a} was not {w} at all", "the {a} was not really {w}",
    "I would not call the {a} {w}", "the {a} was anything but {w}", "the {a} was far from {w}",
    "the {a} was never {w}", "nobody could call the {a} {w}", "I did not find the {a} {w}",
    "it would be wrong to call the {a} {w}")
TURNED_TWICE = ("nobody could say that the {a} was not {w}",
    "I would not say that the {a} was never {w}",
    "it would be wrong to say that the {a} was not {w}")
# {v}: the clause that decides; {o}: the one that does not
CONTRASTS = ("{o}, but {v}", "{o}, but in the end {v}", "{o}; still, {v}", "although {o}, {v}",
    "even though {o}, {v}", "{v}, even if {o}", "{o}, yet {v}")
# Sentiment that is not the reviewer's
HEARSAY = ("my brother had told me that the {a} was {w}",
    "the poster promised that the {a} would be {w}", "some people say that the {a} was {w}",
    "I had expected that the {a} would be {w}")
FACTS = ("I saw it on a Friday evening", "it runs for two hours",
    "it was shot in Paris in one summer", "the director also wrote the script",
    "we went with the whole family", "it is the third part of the series",
    "the story is set in a small town", "the book came out ten years ago",
    "the cinema was half full", "the cast is the same as last time",
    "it starts with a train and a letter", "the music is by two sisters")
# fmt: on
SHARES = {"turned": 0.28, "turned twice": 0.04, "contrast": 0.40, "hearsay": 0.12, "fact": 0.30}


class Reviews(NamedTuple):
    """One split: `texts` and their `labels`, indices into LABEL_NAMES."""

    texts: list[str]
    labels: list[int]


@cache
def reviews() -> dict[str, Reviews]:
    """All splits. Classes are balanced and no text occurs twice."""
    rng = random.Random(SEED)
    seen: set[str] = set()
    splits = {name: Reviews([], []) for name in SIZES}
    for name, (texts, labels) in splits.items():
        while len(texts) < SIZES[name]:
            label = len(texts) % 2
            text = _review(rng, good=label == 1)
            if text not in seen:
                seen.add(text)
                texts.append(text)
                labels.append(1 - label if name == "train" and rng.random() < NOISE else label)
    return splits


def vocabulary() -> list[str]:
    """Every word and punctuation mark of the reviews, in lower case and sorted."""
    fixed = (*ASPECTS, *GOOD, *BAD, *INTENSITY, *FACTS, ".")
    forms = (*PLAIN, *TURNED, *TURNED_TWICE, *CONTRASTS, *HEARSAY)
    text = re.sub(r"{\w}", " ", " ".join((*fixed, *forms))).lower()
    return sorted(set(re.findall(r"\w+|[^\w\s]", text)))


def _review(rng: random.Random, good: bool) -> str:
    if rng.random() >= SHARES["contrast"]:
        sentences = [_opinion(rng, good)]
    else:
        form = _pick(rng, CONTRASTS)
        sentences = [form.format(v=_opinion(rng, good), o=_opinion(rng, not good))]
    if rng.random() < SHARES["hearsay"]:
        sentences.insert(0, _clause(rng, HEARSAY, rng.random() < 0.5))
    if rng.random() < SHARES["fact"]:
        sentences.insert(rng.randrange(len(sentences) + 1), _pick(rng, FACTS))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def _opinion(rng: random.Random, good: bool) -> str:
    kind = rng.random()
    if kind < SHARES["turned"]:
        return _clause(rng, TURNED, not good)
    if kind < SHARES["turned"] + SHARES["turned twice"]:
        return _clause(rng, TURNED_TWICE, good)
    return _clause(rng, PLAIN, good)


def _clause(rng: random.Random, forms: tuple[str, ...], good: bool) -> str:
    # The draws have an order: form, aspect, word, intensity
    form, aspect = _pick(rng, forms), _pick(rng, ASPECTS)
    word, intensity = _pick(rng, GOOD if good else BAD), _pick(rng, INTENSITY)
    return form.format(a=aspect, w=word, i=intensity)


def _pick(rng: random.Random, choices: tuple[str, ...]) -> str:
    # Python promises to keep the numbers of random() alone
    return choices[int(rng.random() * len(choices))]
