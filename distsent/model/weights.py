"""Weights of a saved model -> classifier. No weight below the head may stay random.

transformers initializes what a checkpoint lacks and goes on. Here only the head, and the pooler
that feeds it, may be new, and only in training.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification as AutoClassifier
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from distsent.errors import UserError
from distsent.model.big_bird import use_full_attention
from distsent.model.load_errors import explain_load_errors

# Libraries wrap modules in modules of these names, around an encoder or inside it: torch.compile,
# FSDP, activation checkpointing, DeepSpeed through Lightning.
LIBRARY_WRAPPERS = (
    "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
)  # fmt: skip
# What training code wraps around an encoder: DataParallel, Lightning, PEFT, sentence-transformers,
# distillation. Modules are also often named after an architecture.
WRAPPERS = {
    *LIBRARY_WRAPPERS, "module", "model", "encoder", "base_model", "auto_model", "backbone",
    "student", "transformer", "pretrained_model", "language_model", "text_encoder", "net", "0",
    *(name.replace("-", "_") for name in CONFIG_MAPPING_NAMES),
}  # fmt: skip
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Loaded:
    """A classifier, the names of its newly initialized weights, and lines for the log."""

    model: PreTrainedModel
    new_weights: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def with_notes(self, *notes: str | None) -> "Loaded":
        return replace(self, notes=(*self.notes, *(note for note in notes if note)))


def load_weights(name: str, key: str, seed: int, **options: Any) -> Loaded:
    """The classifier `name`; `seed` initializes what is new: the head, perhaps the pooler.

    A known prefix of wrappers is stripped from the names of the weights. Raises UserError, which
    begins with the job key, if any weight below the head is missing or has another shape.
    """
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    note = None
    with explain_load_errors(name, key):
        torch.manual_seed(seed)
        model, info = AutoClassifier.from_pretrained(name, **options)
        if prefix := wrapper_prefix(model, info):
            torch.manual_seed(seed)  # the same head as without the wrapper
            escaped = prefix.replace(".", r"\.")
            options["key_mapping"] = {f"^{escaped}": ""}
            model, info = AutoClassifier.from_pretrained(name, **options)
            note = f"{key} = {name!r}: its weights are stored under {prefix!r}, which was stripped"
    if problem := _problem(model, info):
        raise UserError(f"{key} = {name!r}: {problem}")
    new = sorted({*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])})
    notes = note, new and f"newly initialized: {listed(new)}", _unused(model, info)
    loaded = Loaded(model, tuple(new)).with_notes(*(note or None for note in notes))
    return loaded.with_notes(use_full_attention(model))


def listed(names: Iterable[str]) -> str:
    """A few of the names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a weight is on top of the encoder. The pooler counts as part of the head."""
    inside = name.startswith(f"{model.base_model_prefix}.")
    return "pooler" in name or (not inside and hasattr(model, model.base_model_prefix))


def wrapper_prefix(model: PreTrainedModel, info: dict[str, Any]) -> str | None:
    """The known prefix under which the file holds what the encoder lacks, or most of it.

    None if there is no such prefix, or more than one: a student and its teacher, for example.
    """
    prefixes = _prefixes(model, info)
    known = [p for p in prefixes if all(part in WRAPPERS for part in p.rstrip(".").split("."))]
    return known[0] if len(prefixes) == 1 and known else None


def _prefixes(model: PreTrainedModel, info: dict[str, Any]) -> list[str]:
    """The prefixes under which the file holds most of what the encoder lacks."""
    base, counts = f"{model.base_model_prefix}.", Counter[str]()
    for name in info["missing_keys"]:
        if not is_head(model, name) and name not in model.all_tied_weights_keys:
            tails = f".{name}", f".{name.removeprefix(base)}"
            counts.update(
                {
                    other[: 1 - len(tail)]
                    for other in info["unexpected_keys"]
                    for tail in tails
                    if other.endswith(tail)
                }
            )
    best = {prefix for prefix, n in counts.items() if n == max(counts.values())}
    # "module.bert." repeats "module.": transformers itself accepts names with and without "bert."
    return sorted(p for p in best if p.removesuffix(base) not in best - {p})


def _problem(model: PreTrainedModel, info: dict[str, Any]) -> str | None:
    """Why the loaded weights must not be used."""
    unexpected = info["unexpected_keys"]
    if updates := [name for name in unexpected if "lora_" in name or ".base_layer." in name]:
        fix = "merge them into the model with peft's merge_and_unload(), and save it"
        return f"its weights hold LoRA updates beside the model ({listed(updates)}); {fix}"
    if wrong := sorted(x for x in info["mismatched_keys"] if not is_head(model, x[0])):
        name, found, expected = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        shapes = f"{list(found)} in its weights and {list(expected)} by its config.json"
        return f"{name} is {shapes}{more}: the two do not belong together"
    if missing := [name for name in info["missing_keys"] if not is_head(model, name)]:
        of = sum(not is_head(model, name) for name in model.state_dict())
        problem = f"its weights lack {len(missing)} of {of} tensors below the head"
        problem += f" ({listed(missing)})"
        if prefixes := _prefixes(model, info):
            found = " and ".join(repr(prefix) for prefix in prefixes)
            fix = "rename those to use, without the prefix"
            return f"{problem}; they hold tensors of these names under {found}: {fix}"
        if inside := {*LIBRARY_WRAPPERS}.intersection(".".join(unexpected).split(".")):
            fix = "save the model without the wrappers"
            return f"{problem}; they hold names with {min(inside)!r} inside: {fix}"
        if unexpected:
            problem += f", and hold {len(unexpected)} others ({listed(unexpected)})"
        return f"{problem}; is its config.json that of another model?"
    if broken := non_finite(model):
        return f"its weights are not finite numbers in {listed(broken)}"
    return None


def non_finite(model: nn.Module) -> list[str]:
    """Names of weights that hold NaN or infinity."""
    return [
        name
        for name, p in model.named_parameters()
        if p.is_floating_point() and not bool(torch.isfinite(p).all())
    ]


def _unused(model: PreTrainedModel, info: dict[str, Any]) -> str | None:
    """A line about weights of the encoder that the classifier does not have, such as layers."""
    children = {name for name, _ in model.base_model.named_children()}
    unused = [
        name
        for name in info["unexpected_keys"]
        if "pooler" not in name
        and name.removeprefix(f"{model.base_model_prefix}.").split(".")[0] in children
    ]
    return f"not used, as config.json has no place for it: {listed(unused)}" if unused else None
