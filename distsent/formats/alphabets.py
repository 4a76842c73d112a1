"""How much of a text is written in the letters of one language, of those with Latin letters."""

import re
from collections import Counter

# Letters beyond ASCII, in lower case
_ALPHABETS = {
    **{"german": "äöüßé", "french": "àâæçéèêëîïôœùûüÿ", "spanish": "áéíñóúüªº¿¡"},
    **{"portuguese": "áâãàçéêíóôõúüªº", "italian": "àèéìíîòóùú", "catalan": "àçèéíïòóúü·"},
    **{"dutch": "áéëèïíóöüú", "danish": "æøåé", "swedish": "åäöéà", "icelandic": "áðéíóúýþæö"},
    **{"polish": "ąćęłńóśźż", "czech": "áčďéěíňóřšťúůýž", "slovak": "áäčďéíĺľňóôŕšťúýž"},
    **{"hungarian": "áéíóöőúüű", "romanian": "ăâîşţ", "croatian": "čćđšž"},
    **{"turkish": "çğıöşüâîûi̇", "lithuanian": "ąčęėįšųūž", "latvian": "āčēģīķļņšūž"},  # noqa: RUF001
    "estonian": "äõöüšž",
}
_LETTERS = {name: frozenset(letters + letters.upper()) for name, letters in _ALPHABETS.items()}
# Stand between words, not inside of them
_APOSTROPHE = "\u2019"
_MARKS = frozenset("“”‘’‚„«»‹›–—…€£¥©®™°§·•´`¨\xa0½¼¾×²³±")  # noqa: RUF001
_BEYOND = re.compile(r"(?<=(.))?([^\x00-\x7f])(?=(.))?", re.DOTALL)


def one_language(text: str) -> float:
    """The share of the characters beyond ASCII that one language has, at best: 0 to 1."""
    found, marks = Counter[str](), 0
    for before, letter, after in _BEYOND.findall(text):
        inside = before.isalpha() and after.isalpha() and letter != _APOSTROPHE
        mark = letter in _MARKS and not inside
        marks += mark
        wrong = letter.isupper() and before.islower()  # as in cafÈ
        found["" if wrong else letter] += not mark
    total = sum(found.values())
    if not total:
        return float(marks > 0)
    return max(sum(found[x] for x in letters) / total for letters in _LETTERS.values())
