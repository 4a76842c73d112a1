"""The demo dataset: always the same texts, closed vocabulary, and more than words to count."""

import hashlib
import re
from collections import Counter

import pytest

from distsent.data import demo
from distsent.model.tokenizer import demo_tokenizer

OBVIOUS = {
    "I loved it": True,
    "the best movie ever": True,
    "I highly recommend it": True,
    "what a terrible waste of time": False,
    "not good at all": False,
    "I didn't like it": False,
    "don't watch it": False,
}


def test_the_dataset_is_the_same_everywhere():
    content = repr([(name, split.texts, split.labels) for name, split in demo.reviews().items()])
    assert hashlib.sha256(content.encode()).hexdigest() == demo.FINGERPRINT


def test_splits_are_balanced_and_no_text_occurs_twice():
    splits = demo.reviews()
    texts = [text for split in splits.values() for text in split.texts]
    words = {tuple(re.findall(r"\w+", text.lower())) for text in texts}
    assert len(texts) == len(words) == 10_000
    assert {name: len(split.texts) for name, split in splits.items()} == demo.SIZES
    for name in ("validation", "test"):
        assert Counter(splits[name].labels) == {0: 500, 1: 500}


def test_a_few_training_labels_are_wrong_and_no_others():
    wrong = {
        name: sum(label != i % 2 for i, label in enumerate(split.labels))
        for name, split in demo.reviews().items()
    }
    assert 0.02 < wrong["train"] / demo.SIZES["train"] < 0.03
    assert wrong["validation"] == wrong["test"] == 0


def test_the_vocabulary_is_closed_but_for_the_unknown_words():
    known, unknown = set(demo.vocabulary()), {word.lower() for word in demo.SLOTS["u"]}
    assert not known & unknown
    for split in demo.reviews().values():
        for text in split.texts:
            words = set(re.findall(r"\w+|[^\w\s]", text.lower()))
            assert words <= known | unknown, text


def test_unknown_words_are_one_token():
    tokenizer = demo_tokenizer()
    ids = tokenizer("A xylophone!")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "a", "[UNK]", "!", "[SEP]"]


def test_words_of_obvious_reviews_are_known():
    texts = (*OBVIOUS, "a wonderful film", "The acting was great, but the plot was a mess.")
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())}
    assert words <= {*demo.vocabulary()}


def test_texts_are_short():
    lengths = [len(re.findall(r"\w+|[^\w\s]", text)) for text in demo.reviews()["train"].texts]
    assert max(lengths) <= 62 and 12 < sum(lengths) / len(lengths) < 22


def test_the_same_words_in_another_order_may_mean_the_opposite():
    """Contrasts with the clauses exchanged hold the same words and opposite labels."""
    one, other = "the plot was dull", "the music was great"
    for form in demo.CONTRASTS:
        straight = form.format(verdict=one, other=other)
        turned = form.format(verdict=other, other=one)
        assert (
            Counter(re.findall(r"\w+", straight)) == Counter(re.findall(r"\w+", turned))
            and straight != turned
        )


@pytest.mark.parametrize(("words", "most"), [((1, 1), 0.66), ((1, 3), 0.80)])
def test_counting_words_does_not_solve_it(words: tuple[int, int], most: float):
    """Logistic regression over single words, and over all word sequences up to three."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = demo.reviews()["train"], demo.reviews()["test"]
    count = CountVectorizer(ngram_range=words, token_pattern=r"\w+|[^\w\s]")
    model = LogisticRegression(max_iter=500).fit(count.fit_transform(train.texts), train.labels)
    assert 0.5 < model.score(count.transform(test.texts), test.labels) <= most
    if words == (1, 3):  # short obvious reviews are in train: a newcomer tries them first
        good = model.predict_proba(count.transform(OBVIOUS))[:, 1]
        assert ((good > 0.5) == [*OBVIOUS.values()]).all(), dict(zip(OBVIOUS, good, strict=True))
        assert 0.4 < model.predict_proba(count.transform(["xylophone quantum banana"]))[0, 1] < 0.6
