"""How the examples of a batch may share the encoder: as long as each gets what it gets alone.

The scores, and in training the dropout masks, are measured on a small copy of the architecture.
The copy has large random weights, so that neither a fresh head nor a zero bias hides a difference,
and float64, in which rounding is far smaller than any difference. Nothing is random here.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import Device, PackedBatch, pack
from distsent.model.classifier import shortest_input
from distsent.model.config import vocabulary

# Equal lengths, a multiple of the number of examples, and one beyond the windows of a small copy.
LENGTHS = (3, 3, 7, 9, 9, 9, 14, 100)
SUBSETS = ((0, 1, 2, 3, 4, 5, 6, 7), (2, 6), (3, 4, 5), (0, 1, 3, 5, 7))
# Of the largest logit. Rounding reaches 1e-15, and 6e-8 in architectures that compute a part in
# float32; the smallest difference that tests/single/test_forward.py has refused is 2e-4.
TOLERANCE = 1e-6
SMALL = {
    "num_hidden_layers": 2, "num_hidden_groups": 1, "num_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "vocab_size": 64, "entity_vocab_size": 64, "intermediate_size": 64,
    "hidden_dim": 64,
}  # fmt: skip
EXPERTS = "num_experts", "num_local_experts", "n_routed_experts"
CHOSEN = "num_experts_per_tok", "n_group"  # how many experts there must be, at least
INNER = "moe_intermediate_size", "shared_expert_intermediate_size"
LARGEST = 500_000_000  # parameters of a copy that cannot be made small, 8 bytes each
# The others take no float64.
IMPLEMENTATIONS: Any = {"attn_implementation": None, "experts_implementation": "eager"}

WINDOWS = ("sliding_window", "attention_chunk_size")
SMALL_WINDOW = 16

Run = Callable[[PackedBatch], torch.Tensor]


def equals_alone(
    small: PreTrainedModel, build: Callable[[PreTrainedModel], Run], training: bool, longest: int
) -> bool:
    """Whether `build(model)` gives an example the same in any batch, and what the model does.

    `small`: the model's `small_copy`. `training`: compare with dropout, at the model's rates.
    `longest`: tokens that the model takes.
    """
    if training and draws_noise(small.config):
        return False
    # `devices=[]`: otherwise it would initialize every GPU of the machine.
    grad = torch.set_grad_enabled(training)  # packed attention has dropout for gradients only
    with suppress(Exception), grad, torch.random.fork_rng(devices=[]):
        small = copy.deepcopy(small).train(training)  # `build` changes its modules
        ids = examples(small.config, within(longest, LENGTHS))
        single = [] if training else alone(small, ids)
        run = build(small)
        if training:
            single = [run(batch_of(ids, [i], training)) for i in range(len(ids))]
        return all(
            equal(run(batch_of(ids, rows, training)), torch.cat([single[i] for i in rows]))
            for rows in SUBSETS
        )
    return False


def draws_noise(config: Any) -> bool:
    """Whether routers of experts add noise, for each batch anew. It may move no score here."""
    noise = (value for key, value in vars(config).items() if key.endswith("jitter_noise"))
    return any(isinstance(value, float) and value > 0 for value in noise)


def alone(model: PreTrainedModel, ids: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Each example's logits [1, C] in a batch of its own."""
    inputs = [torch.from_numpy(x)[None] for x in ids]
    return [model(input_ids=x, attention_mask=torch.ones_like(x)).logits for x in inputs]


def small_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The architecture with few layers, few token ids and short windows where it can be had.

    In float64. It has a layer of each kind. Raises ValueError if it is too large.
    """
    try:
        return _random_copy(model, _shrunk(model.config))
    except Exception:  # a configuration may hold numbers that depend on those made small
        return _random_copy(model, copy.deepcopy(model.config))


def _shrunk(config: Any) -> Any:
    config = copy.deepcopy(config)
    for part in parts(config):
        _shrink(part)
    return config


def parts(config: Any) -> list[Any]:
    """A configuration and those in it: of text, images, an encoder, a decoder."""
    inside = [value for value in vars(config).values() if isinstance(value, PretrainedConfig)]
    return [config, *(part for value in inside for part in parts(value))]


def _shrink(config: Any) -> None:
    layers = getattr(config, "num_hidden_layers", None)
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or ()))
    sizes = SMALL | {"num_hidden_layers": max(SMALL["num_hidden_layers"], len(kinds))}
    few = max(4, *(getattr(config, key, None) or 0 for key in CHOSEN))
    for keys, most in ((WINDOWS, SMALL_WINDOW), (EXPERTS, 2 * few), (INNER, 64)):
        sizes |= {
            key: min(size, most)
            for key in keys
            if isinstance(size := getattr(config, key, None), int)
        }
    for key, size in sizes.items():
        if hasattr(config, key):
            with suppress(NotImplementedError):
                setattr(config, key, size)
    if kinds:
        config.layer_types = kinds + config.layer_types[len(kinds) :]
    for key, value in list(vars(config).items()):
        if key.endswith("_token_id") and isinstance(value, int):
            setattr(config, key, value % SMALL["vocab_size"])
        elif isinstance(value, list) and layers and len(value) == layers:
            setattr(config, key, value[: config.num_hidden_layers])


@torch.no_grad()
def _random_copy(model: PreTrainedModel, config: Any) -> PreTrainedModel:
    """Matrices keep the size of their input, so that attention and normalization are sensitive."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        size = type(model)._from_config(copy.deepcopy(config), **IMPLEMENTATIONS).num_parameters()
    if size > LARGEST:
        raise ValueError(f"a copy of {type(model).__name__} has {size:,} parameters")
    small = type(model)._from_config(config, **IMPLEMENTATIONS).double()
    generator = torch.Generator().manual_seed(0)
    for p in small.parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        p.copy_(p + 0.3 * noise if p.dim() < 2 else noise / p[0].numel() ** 0.5)
    return small


def examples(config: Any, lengths: Sequence[int]) -> list[np.ndarray]:
    """Token ids without special ones, but with the end that some heads look for."""
    rng, special = np.random.default_rng(0), set(special_token_ids(config))
    size = vocabulary(config)
    ids = [i for i in range(size) if i not in special]
    shortest = shortest_input(config)
    out = [rng.choice(ids, max(n, shortest)) for n in lengths]
    end = getattr(config, "eos_token_id", None)
    for x in out if isinstance(end, int) and end < size else ():
        x[-1] = end
    return out


def within(longest: int, lengths: Sequence[int]) -> list[int]:
    """Lengths that a model takes whose limit is `longest`.

    Some architectures have fewer positions than they say: LUKE and MPNet begin at the second.
    """
    return [min(n, max(longest - 8, 8)) for n in lengths]


def special_token_ids(config: Any) -> tuple[int, ...]:
    """Token ids that a model may add to those of a text."""
    known = [(key, value) for part in parts(config) for key, value in vars(part).items()]
    limit = vocabulary(config)
    found = {i for key, i in known if key.endswith("_token_id") and isinstance(i, int)}
    return tuple(sorted(i for i in found if 0 <= i < limit))


def batch_of(
    ids: Sequence[np.ndarray], rows: Sequence[int], training: bool = False, device: Device = "cpu"
) -> PackedBatch:
    picked = [ids[i] for i in rows]
    lengths = np.array([len(x) for x in picked])
    keys_T = dropout_keys(0, 0, np.array(rows), lengths) if training else None
    return pack(picked, np.zeros(len(rows)), None, keys_T, device, step_key(0, 0))


def equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    largest = expected.abs().max()
    return bool(largest > 0 and (found - expected).abs().max() <= TOLERANCE * largest)
