"""Tiny encoders of all architectures that people fine-tune.  python -m tests.architectures FILE

Writes FILE, the table of docs/architectures.md, from the ways in which each of them runs.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

VOCABULARY = 100
USUAL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 66, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": 3, "num_labels": 3,
}  # fmt: skip
SHORT = {"embedding_size": 16}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
BART = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
# Architecture, by transformers' name, and what its configuration needs beyond the usual.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {}, "distilbert": {}, "roberta": {}, "albert": SHORT, "xlm-roberta": {},
    "camembert": {}, "electra": SHORT, "ernie": {}, "data2vec-text": {}, "layoutlm": {},
    "markuplm": {"xpath_unit_hidden_size": 4}, "mpnet": {"max_position_embeddings": 70}, "deberta": {
        "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 16,
    },
    "deberta-v2": {
        "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
        "pooler_hidden_size": 16,
    },
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "longformer": {"attention_window": [4, 4]}, "big_bird": {},
    "funnel": {
        "num_hidden_layers": None, "block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8,
        "d_inner": 32,
    },
    "xlnet": {"max_position_embeddings": None, "d_model": 16, "d_head": 8, "d_inner": 32}, "xlm": {}, "flaubert": {},
    "mobilebert": {
        "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16,
        "num_feedforward_networks": 1,
    },
    "squeezebert": SHORT, "convbert": {"embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 2},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16}, "megatron-bert": {},
    "nystromformer": {}, "fnet": {}, "roformer": SHORT, "yoso": {}, "ibert": {},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX", "adapter_reduction_factor": 2},
    "roberta-prelayernorm": {}, "xlm-roberta-xl": {}, "esm": {"position_embedding_type": "rotary"},
    "nomic_bert": {}, "jina_embeddings_v3": {}, "eurobert": GROUPED, "luke": {"entity_vocab_size": 10},
    "canine": {}, "gpt2": {}, "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "openai-gpt": {}, "opt": {"word_embed_proj_dim": 16, "ffn_dim": 32}, "llama": GROUPED,
    "qwen2": GROUPED, "mistral": GROUPED, "gemma": GROUPED, "bloom": {}, "phi": {}, "t5": T5,
    "mt5": T5, "bart": BART,
}  # fmt: skip


def model(name: str, seed: int = 0) -> PreTrainedModel:
    """A tiny classifier with random weights, in evaluation mode."""
    merged = {**USUAL, **ARCHITECTURES[name]}
    wanted = {key: value for key, value in merged.items() if value is not None}
    config = AutoConfig.for_model(name, **wanted)
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config).eval()
