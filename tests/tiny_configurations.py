"""The smallest configurations of all architectures that classify texts, by transformers' names."""

from __future__ import annotations

from typing import Any

from tests import tiny_models

USUAL: dict[str, Any] = {
    "vocab_size": tiny_models.VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 66,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
PADS_WITH_1 = {"pad_token_id": 1}
EMBEDDING = {"embedding_size": 16}
RELATIVE = {
    "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True,
    "pooler_hidden_size": 16,
}  # fmt: skip
DECODER = {"pad_token_id": None}  # neither the configuration nor the tokenizer has one
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
CAUSAL = GROUPED | DECODER
T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
BART = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, **PADS_WITH_1,
}  # fmt: skip
MLA = {
    "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}  # fmt: skip
EXPERTS = {  # as different architectures name them
    "n_routed_experts": 4, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_topk": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
MAMBA = {"use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4}
LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
WINDOW = {"sliding_window": 8}
KINDS_OF_LAYER = "sliding_attention", "full_attention"
TEXT = USUAL | GROUPED
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
IMAGES = {"vision_config": VISION, "mm_tokens_per_image": 4, "pixel_shuffle_factor": 1}
# What holds the sizes in place of the configuration itself, as in those that are published.
NESTED = {"text_config", "encoder"}
# By transformers' names: what a configuration needs beyond the usual; None: leave the key out.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {},
    "roberta": PADS_WITH_1,
    "albert": EMBEDDING,
    "xlm-roberta": PADS_WITH_1,
    "camembert": PADS_WITH_1,
    "electra": EMBEDDING,
    "ernie": {},
    "data2vec-text": PADS_WITH_1,
    "layoutlm": {},
    "markuplm": {"xpath_unit_hidden_size": 4},
    "mpnet": {"max_position_embeddings": 70, **PADS_WITH_1},
    "deberta": RELATIVE,
    "deberta-v2": RELATIVE,
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "longformer": {"attention_window": [4, 4], **PADS_WITH_1},
    "big_bird": {"block_size": 4, "num_random_blocks": 1},  # sparse from 29 tokens
    "funnel": {
        "num_hidden_layers": None, "block_sizes": [1, 1], "d_model": 16, "n_head": 2, "d_head": 8,
        "d_inner": 32,
    },
    "xlnet": {
        "max_position_embeddings": None, "d_model": 16, "d_head": 8, "d_inner": 32,
        "pad_token_id": 5,
    },
    "xlm": {},
    "flaubert": {},
    "mobilebert": {
        "embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16,
        "num_feedforward_networks": 1,
    },
    "squeezebert": EMBEDDING,
    "convbert": {"conv_kernel_size": 3, **EMBEDDING},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "megatron-bert": {},
    "nystromformer": {},
    "fnet": {},
    "roformer": EMBEDDING,
    "yoso": {},
    "ibert": PADS_WITH_1,
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX", **PADS_WITH_1},
    "roberta-prelayernorm": PADS_WITH_1,
    "xlm-roberta-xl": PADS_WITH_1,
    "esm": {"position_embedding_type": "rotary", **PADS_WITH_1},
    "nomic_bert": {},
    "jina_embeddings_v3": PADS_WITH_1,
    "eurobert": GROUPED,
    "luke": {"entity_vocab_size": 10, **PADS_WITH_1},
    "canine": {},
    "gpt2": DECODER,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4, **DECODER},
    "openai-gpt": DECODER,
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 32, **PADS_WITH_1},
    "llama": GROUPED | DECODER,
    "qwen3": GROUPED | DECODER,
    "mistral": GROUPED | DECODER,
    "gemma3": IMAGES | {"text_config": TEXT},
    "bloom": {},
    "phi": DECODER,
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "mixtral": CAUSAL | EXPERTS,
    "jamba": CAUSAL | EXPERTS | MAMBA | {"attn_layer_period": 2, "attn_layer_offset": 1},
    "qwen3_5_text": CAUSAL | LINEAR,
}  # fmt: skip
# Close to one that the tests train: how they run is measured, but they are not trained.
RELATIVES: dict[str, dict[str, Any]] = {
    "arcee": CAUSAL,
    "axk1": CAUSAL | MLA | EXPERTS,
    "axk2": CAUSAL | MLA | EXPERTS,
    "bigbird_pegasus": BART,
    "biogpt": DECODER,
    "cohere_compass_text": CAUSAL | {
        "layer_types": [*KINDS_OF_LAYER],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in KINDS_OF_LAYER
        },
    },
    "ctrl": DECODER | {"dff": 32},
    "deepseek_v2": DECODER | MLA | EXPERTS,
    "deepseek_v3": DECODER | MLA | EXPERTS,
    "doge": CAUSAL,
    "esmc": PADS_WITH_1,
    "exaone4": CAUSAL | WINDOW | {"layer_types": [*KINDS_OF_LAYER]},
    "falcon": DECODER,
    "gemma": GROUPED,
    "gemma2": GROUPED | WINDOW,
    "gemma3_text": GROUPED | WINDOW | {"sliding_window_pattern": 2},
    "glm": GROUPED,
    "glm4": GROUPED,
    "gpt-sw3": DECODER,
    "gpt_bigcode": DECODER,
    "gpt_neox": DECODER,
    "gpt_oss": CAUSAL | EXPERTS | WINDOW,
    "gptj": DECODER | {"rotary_dim": 4},
    "gte": {},
    "helium": CAUSAL,
    "hunyuan_v1_dense": CAUSAL,
    "hunyuan_v1_moe": CAUSAL | EXPERTS,
    "jetmoe": DECODER | EXPERTS | {"num_key_value_heads": 1, "kv_channels": 8},
    "layoutlmv3": PADS_WITH_1 | {
        "coordinate_size": 3, "shape_size": 2, "input_size": 28, "patch_size": 14,
    },
    "lilt": PADS_WITH_1 | {"hidden_size": 24},
    "mbart": BART,
    "minicpm3": DECODER | MLA | {"num_key_value_heads": 2},
    "minimax": CAUSAL | EXPERTS | {"block_size": 4},
    "ministral": CAUSAL | WINDOW,
    "ministral3": CAUSAL,
    "mistral4": DECODER | MLA | EXPERTS,
    "modernbert-decoder": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "modernvbert": IMAGES | {
        "text_config": USUAL | {"local_attention": 8, "model_type": "modernbert"},
    },
    "mpt": DECODER | {"d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 66},
    "mra": {},
    "mvp": BART,
    "nemotron": CAUSAL,
    "olmo": CAUSAL,
    "olmo2": CAUSAL,
    "olmo3": CAUSAL | WINDOW,
    "perceiver": {
        "d_latents": 16, "d_model": 16, "num_latents": 8, "num_blocks": 1,
        "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
    },
    "persimmon": DECODER,
    "phi3": GROUPED,
    "phimoe": CAUSAL | EXPERTS,
    "plbart": BART,
    "qwen2": CAUSAL,
    "qwen2_moe": CAUSAL | EXPERTS,
    "qwen3_5": {
        "text_config": TEXT | LINEAR | DECODER,
        "vision_config": {
            "depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2,
            "out_hidden_size": 16, "num_position_embeddings": 16,
        },
    },
    "qwen3_moe": CAUSAL | EXPERTS,
    "qwen3_next": CAUSAL | EXPERTS | LINEAR,
    "reformer": {
        "axial_pos_embds": False, "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4, "num_buckets": 4, "num_hashes": 1, "attention_head_size": 8,
        "feed_forward_size": 32, "is_decoder": False,
    },
    "roc_bert": {
        "pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "seed_oss": CAUSAL,
    "smollm3": GROUPED,
    "stablelm": CAUSAL,
    "starcoder2": CAUSAL,
    "t5gemma": {"encoder": TEXT, "decoder": TEXT},
    "t5gemma2": {"encoder": IMAGES | {"text_config": TEXT}, "decoder": TEXT},
    "tapas": {},
    "ultrabert": {},
    "ultravbert": IMAGES | {"text_config": TEXT | {"model_type": "ultrabert"}},
    "umt5": T5,
    "zamba": CAUSAL | MAMBA | {
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "hybrid"],
        "n_mamba_heads": 2,
    },
    "zamba2": CAUSAL | {
        "layers_block_type": ["mamba", "hybrid"], "mamba_d_state": 4, "mamba_headdim": 8,
        "n_mamba_heads": 4, "use_mem_rope": False, "num_mem_blocks": 1,
    },
}  # fmt: skip
NOT_BUILT = {
    "diffllama": "trains with model.dropout = 0 alone: it has no dropout in its attention",
    "layoutlmv2": "needs an image of each page",
}
REMARKS = {
    **dict.fromkeys(
        ("gemma3", "modernvbert", "qwen3_5", "t5gemma2", "ultravbert"), "texts without images"
    ),
    **dict.fromkeys(("layoutlm", "layoutlmv3", "lilt"), "texts without their places on a page"),
    "markuplm": "texts without their markup",
    "roc_bert": "characters without their shapes and sounds",
    "tapas": "texts without tables",
}
