"""The datasets that have a short name in a job."""

from typing import NamedTuple


class KnownDataset(NamedTuple):
    """`classes`: names in index order, for copies of the dataset that contain bare numbers."""

    hub_id: str
    config: str | None
    classes: tuple[str, ...]


SENTIMENTS = ("negative", "neutral", "positive")
EMOTIONS = ("sadness", "joy", "love", "anger", "fear", "surprise")
KNOWN_DATASETS = {
    "imdb": KnownDataset("stanfordnlp/imdb", None, ("neg", "pos")),
    "emotion": KnownDataset("dair-ai/emotion", "split", EMOTIONS),
    "tweets": KnownDataset("cardiffnlp/tweet_eval", "sentiment", SENTIMENTS),
}


def known_classes(source: str) -> tuple[str, ...] | None:
    """Class names of a well-known dataset; None for any other source."""
    return KNOWN_DATASETS[source].classes if source in KNOWN_DATASETS else None
