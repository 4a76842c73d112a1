"""Adapters as a part of building a model: LoRA on a float or 4-bit base, through peft and bitsandbytes.

The low-rank updates are put into the classifier itself, with no wrapper around it: to everything behind, packed forward,
flat buffer and checkpoints, a classifier with adapters is a classifier that has fewer trainable parameters.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from distsent.errors import UserError
from distsent.job.job import Job
from distsent.job.rules import public_name
from distsent.model import classifier
from distsent.model.tokenizer import NO_REMOTE_CODE, explain_load_errors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logging.getLogger("bitsandbytes").setLevel(
    logging.ERROR
)  # it speaks of kernels that it can do without, on every worker

TARGETS = {  # query and value of each layer, by architecture; peft itself knows them for some of these only
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "albert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
}
WHOLE = ("pooler", "pooler.dense")  # never in 4 bits, like the head: what feeds it (ends of names)
NAME = "default"  # peft's own name for an adapter
PREFIX = "base_model.model."  # under which peft's files keep a model's modules


def check_adapter(job: Job) -> None:
    """Raises UserError for adapters that cannot be, before a corpus is read for them."""
    if job.adapter.kind == "none":
        return
    _need("peft", f"adapter.kind = {job.adapter.kind!r}")
    if job.adapter.bits:
        _need("bitsandbytes", f"adapter.bits = {job.adapter.bits}")
    if job.adapter.bits and job.model.name == "demo":
        raise UserError(
            "adapter.bits = 4: model.name = 'demo' has no weights to keep in 4 bits; name a pretrained encoder"
        )
    if job.adapter.targets is None and job.model.name != "demo":
        with explain_load_errors(job.model.name, "model.name"):
            kind = AutoConfig.from_pretrained(
                job.model.name, revision=job.model.revision or "main", **NO_REMOTE_CODE
            ).model_type
        if kind not in TARGETS:
            raise UserError(
                f"adapter.targets: none are known for a {kind} encoder (known: {', '.join(TARGETS)}); name the modules that get "
                'updates, e.g. adapter.targets=["query", "value"]'
            )


def _need(package: str, key: str) -> None:
    try:
        import_module(package)
    except Exception as error:  # what is installed may not fit what else is
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        why = (
            ""
            if missing
            else f", which cannot be imported here ({type(error).__name__}: {str(error).splitlines()[0]})"
        )
        raise UserError(f"{key}: needs {package}{why}; pip install 'distsent[lora]'") from None


def build_model(
    job: Job, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], precision: str = "float32"
) -> PreTrainedModel:
    """The model that a job trains, in `precision`: the classifier as it is, or with adapters in it. Raises UserError."""
    check_adapter(job)
    model = classifier.build_classifier(
        job.model.name, tokenizer, labels, seed=job.seeds[0], revision=job.model.revision, dropout=job.model.dropout,
        quantization=nf4_config(_heads_of(job), precision) if job.adapter.bits else None,
    )  # fmt: skip
    keep_4bit_weights(model)
    return model if job.adapter.kind == "none" else _with_lora(model, job)


def nf4_config(head: Sequence[str], precision: str = "float32") -> Any:
    """NF4 (Dettmers et al., 2023), computing in `precision` where there is a GPU, the modules of the `head` left whole."""
    from transformers import BitsAndBytesConfig

    half = {"bf16": torch.bfloat16, "fp16": torch.float16} if torch.cuda.is_available() else {}
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=[*head, *WHOLE],
        bnb_4bit_compute_dtype=half.get(precision, torch.float32),
    )  # fmt: skip


def heads(model: PreTrainedModel) -> list[str]:
    """What stands on top of the encoder: new with every job, so trained whole."""
    return [
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    ]


def _heads_of(job: Job) -> list[str]:
    """The same of a model that is not read yet."""
    with explain_load_errors(job.model.name, "model.name"), torch.device("meta"):
        config = AutoConfig.from_pretrained(
            job.model.name, revision=job.model.revision or "main", **NO_REMOTE_CODE
        )
        return heads(AutoModelForSequenceClassification.from_config(config))


def keep_4bit_weights(model: nn.Module) -> None:
    """Let no evaluation change 4-bit weights.

    On CPUs with half-width products bitsandbytes would, outside training, rewrite them for its kernel and round their scales to
    bf16, for good: the model after the first evaluation would be another one, and on those machines only.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (no attribute that nn.Module knows)


def _with_lora(model: PreTrainedModel, job: Job) -> PreTrainedModel:
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    targets = targets_of(model, job.adapter.targets)
    alpha: Any = job.adapter.alpha  # peft asks for a whole number and takes any
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=job.adapter.rank, lora_alpha=alpha, lora_dropout=job.adapter.dropout,
        target_modules=list(targets), modules_to_save=heads(model),
        bias="none", base_model_name_or_path=public_name(job.model.name), revision=job.model.revision,
    )  # fmt: skip
    return inject_adapter_in_model(config, model, NAME)  # type: ignore[return-value]


def targets_of(model: PreTrainedModel, wanted: Sequence[str] | None) -> Sequence[str]:
    """The modules that get updates. Raises UserError for one that the encoder does not have."""
    kind = model.config.model_type
    targets = wanted or TARGETS[kind]
    linear = {
        name.rpartition(".")[2]
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear)
    }
    names = [f"{model.base_model_prefix}.{name}" for name, _ in model.base_model.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UserError(
                f"adapter.targets: this {kind} encoder has no module {target!r}; it has {', '.join(sorted(linear))}"
            )
    return targets


def has_adapter(model: nn.Module) -> bool:
    return any(hasattr(module, "lora_A") for module in model.modules())


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """What was trained, alone, as peft saves it: `PeftModel.from_pretrained(base, folder)` puts it onto the base again."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = model.peft_config[NAME]
    state = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {PREFIX + name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        folder / "adapter_model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    before, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = before


@torch.no_grad()
def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The same classifier as plain float32 weights: updates added in, 4-bit weights as the numbers that they stand for.

    What a 4-bit base computes, it computes with exactly these numbers: the merged model differs by rounding alone.
    (Merging into 4 bits would round the sum again, and give another model.)
    """
    weights: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if hasattr(module, "modules_to_save"):  # the trained copy of a head, in peft's wrapper
            trained = module.modules_to_save[NAME].state_dict()
            weights |= {f"{path}.{name}": tensor.clone() for name, tensor in trained.items()}
        elif hasattr(module, "lora_A"):
            base = module.get_base_layer()
            weights[f"{path}.weight"] = _float(base) + module.get_delta_weight(NAME).float()
            if base.bias is not None:
                weights[f"{path}.bias"] = base.bias.detach().clone()
        elif (
            "modules_to_save" not in path
            and "original_module" not in path
            and "base_layer" not in path
        ):
            for name, tensor in module.named_parameters(recurse=False):
                if ".lora_" not in f"{path}.":
                    weights[f"{path}.{name}"] = (
                        _float(module) if name == "weight" else tensor.detach().clone()
                    )
            weights |= {
                f"{path}.{name}": tensor.clone()
                for name, tensor in module.named_buffers(recurse=False)
            }
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(model)._from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )  # the packed one wants streams
    known = set(plain.state_dict())
    plain.load_state_dict({name: tensor.cpu() for name, tensor in weights.items() if name in known})
    return plain.eval()


def _float(module: nn.Module) -> torch.Tensor:
    """A module's weight in float32, out of its 4 bits where it is kept in these."""
    weight: Any = module.weight
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    return weight.detach().float().clone()


def count_parameters(model: nn.Module) -> int:
    """Numbers that the model computes with: two to a byte where they are kept in 4 bits, a retrained head counted once."""
    total = 0
    for name, p in model.named_parameters():
        if ".original_module." not in name:
            total += 2 * p.numel() * p.element_size() if hasattr(p, "quant_state") else p.numel()
    return total
