"""LoRA on a float or 4-bit base, through peft and bitsandbytes, as a part of building a model.

The updates are injected into the classifier without a wrapper. For the packed forward, the flat
parameters and the checkpoints, it is a classifier with fewer trainable parameters.
"""

import copy
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from distsent.errors import UserError
from distsent.job.job import Job
from distsent.job.rules import public_name
from distsent.model.bf16_base import LINEAR, halve_frozen_weights
from distsent.model.classifier import build_classifier, without_weights
from distsent.model.weights import Loaded

# bitsandbytes warns about missing kernels that it does not need, on every worker.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# Query and value of each layer, or the one layer that computes both, by the names in transformers.
TARGETS = (
    ("query", "value"),  # BERT, RoBERTa, XLM-R, CamemBERT, ALBERT, ELECTRA, Longformer
    ("q_lin", "v_lin"),  # DistilBERT, XLM
    ("query_proj", "value_proj"),  # DeBERTa v2 and v3
    ("q_proj", "v_proj"),  # Llama, Qwen, Gemma, Mistral, Phi, OPT, BART
    ("q_head", "v_head"),  # Funnel
    ("q", "v"),  # MPNet, T5
    ("in_proj",),  # DeBERTa
    ("Wqkv",),  # ModernBERT
    ("c_attn",),  # GPT-2
    ("query_key_value",),  # GPT-NeoX, BLOOM
    ("qkv_proj",),  # Phi-3
)
NEVER_4BIT = ("pooler", "pooler.dense")  # the input of the head (last parts of module names)
ADAPTER_NAME = "default"  # peft's default
PEFT_PREFIX = "base_model.model."  # of module names in peft's files


def check_adapter(job: Job) -> None:
    """Raise UserError for impossible adapters, before the dataset is read."""
    if job.adapter.kind == "none":
        return
    _require("peft", f"adapter.kind = {job.adapter.kind!r}")
    if job.adapter.bits == 4:
        _require("bitsandbytes", f"adapter.bits = {job.adapter.bits}")
        if job.model.name == "demo":
            raise UserError("adapter.bits = 4 needs a pretrained encoder, not model.name = 'demo'")
    if job.model.name != "demo":
        _targets(without_weights(job.model), job.adapter.targets)


def _require(package: str, key: str) -> None:
    try:
        import_module(package)
    except Exception as error:  # an installed package may be incompatible with another one
        reason = f", which fails to import ({type(error).__name__}: {str(error).splitlines()[0]})"
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            reason = ""
        raise UserError(f"{key}: needs {package}{reason}; pip install 'distsent[lora]'") from None


def build_model(
    job: Job, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], precision: str = "float32"
) -> Loaded:
    """The model that a job trains: the classifier, with adapters if any. Raises UserError."""
    check_adapter(job)
    quantization = None
    if job.adapter.bits == 4:
        quantization = nf4_config(head_modules(without_weights(job.model)), precision)
    loaded = build_classifier(
        job.model, tokenizer, labels, job.seeds[0], quantization, job.data.task
    )
    keep_4bit_weights(loaded.model)
    if job.adapter.kind == "none":
        return loaded
    model = _add_lora(loaded, job)
    if job.adapter.bits == 16:
        halve_frozen_weights(model)
    return replace(loaded, model=model)


def nf4_config(head: Sequence[str], precision: str = "float32") -> Any:
    """NF4 (Dettmers et al., 2023) except for the head. On GPUs it computes in `precision`."""
    from transformers import BitsAndBytesConfig

    half = {"bf16": torch.bfloat16, "fp16": torch.float16} if torch.cuda.is_available() else {}
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=[*head, *NEVER_4BIT],
        bnb_4bit_compute_dtype=half.get(precision, torch.float32),
    )


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules on top of the encoder. They are new in every job and fully trained."""
    children, encoder = model.named_children(), model.base_model_prefix
    return [name for name, child in children if name != encoder and list(child.parameters())]


def new_poolers(loaded: Loaded) -> list[str]:
    """Names of poolers inside the encoder that are new: they are trained and saved as the head is.

    Many encoders are published without one. PEFT would give every base another random one.
    """
    inside = f"{loaded.model.base_model_prefix}."
    new = [name for name in loaded.new_weights if name.startswith(inside)]
    return sorted({re.sub(r"(pooler[^.]*)\..*", r"\1", name) for name in new})


def keep_4bit_weights(model: nn.Module) -> None:
    """Prevent evaluations from changing 4-bit weights.

    On CPUs with bf16 matmuls, bitsandbytes repacks them for its kernel outside training and rounds
    their scales to bf16 for good. The first evaluation would change the model on those CPUs only.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _add_lora(loaded: Loaded, job: Job) -> PreTrainedModel:
    from peft import LoraConfig, TaskType, inject_adapter_in_model

    model, options = loaded.model, job.adapter
    alpha: Any = options.alpha  # peft declares int and accepts float
    targets = _targets(model, options.targets)
    chosen = [m for name, m in model.named_modules() if name.split(".")[-1] in targets]
    trained = [*head_modules(model), *new_poolers(loaded)]
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=options.rank, lora_alpha=alpha, lora_dropout=options.dropout,
        target_modules=list(targets), modules_to_save=trained,
        base_model_name_or_path=public_name(job.model.name), revision=job.model.revision,
        bias="none", fan_in_fan_out=any(isinstance(module, Conv1D) for module in chosen),
    )  # fmt: skip
    return inject_adapter_in_model(config, model, ADAPTER_NAME)  # type: ignore[return-value]


def _targets(model: PreTrainedModel, targets: Sequence[str] | None) -> Sequence[str]:
    """The modules to update. Raises UserError unless the encoder has each as a linear layer."""
    architecture, prefix = model.config.model_type, f".{model.base_model_prefix}."
    modules = {prefix + name: module for name, module in model.base_model.named_modules()}
    linear = {n.split(".")[-1] for n, module in modules.items() if isinstance(module, LINEAR)}
    rest = f"it has {', '.join(sorted(linear))}"
    if targets is None:
        found = [names for names in TARGETS if linear.issuperset(names)]
        if not found:
            problem = f"adapter.targets: no default for {architecture} encoders"
            raise UserError(f"{problem}; set it to some of its linear layers: {rest}")
        return found[0]
    for target in targets:
        chosen = [module for name, module in modules.items() if name.endswith(f".{target}")]
        wrong = sorted({type(m).__name__ for m in chosen if not isinstance(m, LINEAR)})
        if not chosen:
            problem = f"this {architecture} encoder has no module {target!r}"
            raise UserError(f"adapter.targets: {problem}; {rest}")
        if wrong:
            problem = f"{target!r} is {wrong[0]} in this {architecture} encoder"
            raise UserError(f"adapter.targets: {problem}; only linear layers are updated; {rest}")
    return targets


def has_adapter(model: nn.Module) -> bool:
    return any(hasattr(module, "lora_A") for module in model.modules())


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Save the trained weights alone, for `PeftModel.from_pretrained(base, folder)`."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    config = copy.copy(model.peft_config[ADAPTER_NAME])
    config.inference_mode = True
    state = get_peft_model_state_dict(model, adapter_name=ADAPTER_NAME, save_embedding_layers=False)
    tensors = {PEFT_PREFIX + name: x.detach().cpu().contiguous() for name, x in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))


@torch.no_grad()
def merge_adapter(model: PreTrainedModel) -> PreTrainedModel:
    """The same classifier with plain float32 weights: 4-bit weights dequantized, updates added.

    A 4-bit base computes with exactly these numbers, so the merged model differs only by rounding.
    (Merging into 4 bits would round the sum again and give another model.)
    """
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # Without storage: these weights would be in memory once more beside those that replace them.
    with torch.device("meta"):
        # "eager": the registered attention needs packed batches.
        plain = type(model)._from_config(config, dtype=torch.float32, attn_implementation="eager")
    wanted = plain.state_dict().keys()
    weights: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        if hasattr(module, "modules_to_save"):  # peft's wrapper around the trained head
            head = module.modules_to_save[ADAPTER_NAME].state_dict()
            weights |= {f"{path}.{name}": tensor for name, tensor in head.items()}
        elif hasattr(module, "lora_A"):
            base, update = module.get_base_layer(), module.get_delta_weight(ADAPTER_NAME)
            weights[f"{path}.weight"] = _float_weight(base) + update.float()
            if base.bias is not None:
                weights[f"{path}.bias"] = base.bias
        else:
            own = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
            for name, tensor in own:
                if (key := f"{path}.{name}") in wanted:
                    weights[key] = _float_weight(module) if name == "weight" else tensor
    for path, module in plain.named_modules():
        # bitsandbytes has no such layers: their weights in 4 bits lie the other way round.
        if isinstance(module, Conv1D) and _is_4bit(model.get_submodule(path)):
            weights[f"{path}.weight"] = weights[f"{path}.weight"].t().contiguous()
    state = {name: x.cpu() for name, x in weights.items() if name in wanted}
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    _share_buffers(model, plain)
    return plain.eval()


def _share_buffers(model: nn.Module, plain: nn.Module) -> None:
    """Give `plain` the buffers of `model` that no file holds, in place of those without storage."""
    for name, buffer in list(plain.named_buffers()):
        if buffer.is_meta:
            path, _, own = name.rpartition(".")
            module = plain.get_submodule(path)
            module.register_buffer(own, model.get_buffer(name).cpu(), persistent=False)


def _is_4bit(module: Any) -> bool:
    return hasattr(getattr(module, "base_layer", module).weight, "quant_state")


def _float_weight(module: nn.Module) -> torch.Tensor:
    """A module's weight in float32, dequantized if it is in 4 bits."""
    weight: Any = module.weight
    if hasattr(weight, "quant_state"):
        from bitsandbytes.functional import dequantize_4bit

        weight = dequantize_4bit(weight.data, weight.quant_state)
    return weight.float()


def count_parameters(model: nn.Module) -> int:
    """Number of parameters: two per byte in 4-bit weights, a retrained head counted once."""
    total = 0
    for name, p in model.named_parameters():
        if ".original_module." not in name:
            total += 2 * p.numel() * p.element_size() if hasattr(p, "quant_state") else p.numel()
    return total
