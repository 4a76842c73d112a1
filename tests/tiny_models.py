"""Tiny encoders of every architecture, and datasets in memory."""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    PreTrainedModel,
    RobertaConfig,
)

from distsent.data.tokens.store import Tokens

VOCABULARY = 100


def tokens(n: int, classes: int = 3, longest: int = 40, seed: int = 0) -> Tokens:
    """Random examples whose class shows in their tokens, so that a model can learn them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    lengths = rng.integers(3, longest + 1, n)
    ids = [
        np.append(rng.integers(10 + 25 * k, 40 + 25 * k, length - 1), 3)
        for k, length in zip(labels, lengths, strict=True)
    ]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Tokens(np.concatenate(ids) % VOCABULARY, offsets, labels, np.arange(n), truncated=0)


def windowed(n: int, most: int = 5, seed: int = 0) -> Tokens:
    """Random texts of one to `most` windows."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, most + 1, n)
    one = tokens(int(counts.sum()), longest=20, seed=seed)
    windows = np.concatenate([[0], np.cumsum(counts)])
    labels = one.labels[windows[:-1]]
    return Tokens(one.ids, one.offsets, labels, np.arange(n), truncated=0, windows=windows)


def encoder(
    family: str = "bert", classes: int = 3, dropout: float = 0.0, seed: int = 0, layers: int = 2
) -> PreTrainedModel:
    """A tiny classifier of the architecture with random weights, in evaluation mode."""
    names = {
        "num_labels": classes,
        "vocab_size": VOCABULARY,
        "pad_token_id": 1 if family == "roberta" else 0,
    }
    usual = {
        **names, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 258, "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }  # fmt: skip
    config = {
        "bert": lambda: BertConfig(**usual),
        "roberta": lambda: RobertaConfig(**usual),
        "albert": lambda: AlbertConfig(**usual, embedding_size=16, classifier_dropout_prob=dropout),
        "distilbert": lambda: DistilBertConfig(
            **names, dim=32, n_layers=layers, n_heads=4, hidden_dim=64,
            max_position_embeddings=256, dropout=dropout, attention_dropout=dropout,
            seq_classif_dropout=dropout,
        ),
    }[family]()  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config).eval()


FAMILIES = ("bert", "distilbert", "roberta", "albert")
