"""Adapters on all architectures, on float and 4-bit weights: training, saving, equal results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import pack
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.job import Job, load_job
from distsent.job.schema import ModelSection
from distsent.model import adapter, classifier
from distsent.model.forward import choose_forward
from distsent.model.half_precision import usable_precision
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import PaddedForward
from distsent.model.tokenizer import load_tokenizer
from distsent.runtime.model_folder import write_model_folder
from distsent.runtime.ownership import Owner
from distsent.training.flat_parameters import FlatParameters
from tests import architectures, fixtures, systems, tiny_models
from tests.parallel.driver import drive, entry

LABELS = ("a", "b", "c")
LENGTHS = (4, 9, 7, 23)


class Tokenizer:
    def __init__(self, family: str) -> None:
        self.pad_token_id = 1 if family == "roberta" else 0


def asked(folder: Path, *more: str) -> Job:
    return load_job(None, [f"model.name={folder}", "adapter.kind=lora", "adapter.rank=4", *more])


def build(job: Job) -> Any:
    return adapter.build_model(job, None, LABELS).model


def small_batch(keys: bool = False):
    ids = [np.arange(5, 5 + n) for n in LENGTHS]
    made = dropout_keys(1, 2, np.arange(len(ids)), np.array(LENGTHS)) if keys else None
    return pack(ids, np.arange(len(ids)) % 3, keys_T=made)


def randomized(model):
    """Randomize the trained weights: new updates are zero and would hide every mistake."""
    torch.manual_seed(3)
    for p in model.parameters():
        if p.requires_grad:
            p.data.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(params=tiny_models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    tiny_models.encoder(family).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.mark.parametrize("bits", [None, 4])
def test_packed_padded_merged_and_peft_compute_the_same(
    family: str, folder: Path, bits: int | None, tmp_path: Path
) -> None:
    job = asked(folder, *(["adapter.bits=4"] if bits else []))
    model = randomized(build(job))
    padded = PaddedForward(randomized(build(job)), Tokenizer(family).pad_token_id)
    forward, remark = choose_forward(model, Tokenizer(family))
    assert isinstance(forward, PackedForward) and remark is None
    merged = PaddedForward(adapter.merge_adapter(model), Tokenizer(family).pad_token_id)
    adapter.save_adapter(model, tmp_path / "adapter")
    base = classifier.build_classifier(
        ModelSection(name=str(folder)),
        None,
        LABELS,
        seed=9,
        quantization=adapter.nf4_config(["classifier", "pre_classifier"]) if bits else None,
    ).model
    adapter.keep_4bit_weights(base)
    loaded = PaddedForward(
        PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval(),
        Tokenizer(family).pad_token_id,
    )
    with torch.no_grad():
        expected = forward(small_batch())
        for other in (padded, merged, loaded):
            assert torch.allclose(other(small_batch()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [None, 4])
def test_updates_and_head_are_trained_and_nothing_else(
    family: str, folder: Path, bits: int | None
) -> None:
    model = build(asked(folder, *(["adapter.bits=4"] if bits else [])))
    named = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or "classifier" in name for name in named)
    assert {name.rpartition(".")[0].rpartition(".")[0] for name in named if ".lora_A." in name}
    flat = FlatParameters(model, classifier.token_embedding(model))
    assert flat.embedding_grad is None and flat.size == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    plain = tiny_models.encoder(family)
    assert adapter.count_parameters(model) == sum(p.numel() for p in plain.parameters()) + sum(
        p.numel() for name, p in model.named_parameters() if ".lora_" in name
    )


def test_the_head_is_never_in_four_bits(folder: Path) -> None:
    model = build(asked(folder, "adapter.bits=4"))
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    assert any(kind == "Linear4bit" for kind in kinds.values())
    assert not [
        name
        for name, kind in kinds.items()
        if kind == "Linear4bit" and ("classifier" in name or "pooler" in name)
    ]


def test_an_evaluation_leaves_four_bit_weights_as_they_are(folder: Path) -> None:
    model = randomized(build(asked(folder, "adapter.bits=4")))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        PaddedForward(model, 0)(small_batch())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_dropout_in_front_of_updates_is_hashed_by_token_like_all_others(
    family: str, folder: Path
) -> None:
    """The same masks however the batch is cut."""
    forward = PackedForward(randomized(build(asked(folder, "adapter.dropout=0.5"))))
    forward.model.train()
    whole = small_batch(keys=True)
    starts = np.cumsum((0, *LENGTHS))
    parts = [
        pack([np.arange(5, 5 + n)], np.zeros(1), keys_T=whole.keys_T[a : a + n])
        for n, a in zip(LENGTHS, starts, strict=False)
    ]  # fmt: skip
    apart = torch.cat([forward(part) for part in parts])
    assert torch.allclose(forward(whole), apart, rtol=0, atol=1e-6)
    forward.model.eval()
    assert not torch.allclose(forward(whole), apart, rtol=0, atol=1e-3)


@pytest.mark.parametrize("targets", ["query", "key", "value", "dense"])
def test_any_part_of_attention_alone_may_have_updates(targets: str, tmp_path: Path) -> None:
    """Frozen inputs of attention need no gradient; attention still has a gradient and dropout."""
    tiny_models.encoder("bert").save_pretrained(tmp_path / "encoder")
    job = asked(tmp_path / "encoder", f'adapter.targets=["{targets}"]')
    packed, padded = (
        PackedForward(randomized(build(job))),
        PaddedForward(randomized(build(job)), 0),
    )
    gradients = []
    for forward in (packed, padded):
        forward(small_batch()).square().sum().backward()
        gradients.append([p.grad for p in forward.model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))
    still = packed(small_batch())
    packed.model.bert.encoder.layer[0].attention.self.dropout.p = 0.9
    packed.model.train()
    assert not torch.allclose(packed(small_batch(keys=True)), still, atol=1e-3)


SMALL: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
DEFAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {  # sizes, default targets
    "xlm-roberta": (SMALL, {"query", "value"}),
    "camembert": (SMALL, {"query", "value"}),
    "electra": (SMALL | {"embedding_size": 16}, {"query", "value"}),
    "deberta-v2": (SMALL | {"pooler_hidden_size": 32}, {"query_proj", "value_proj"}),
    "deberta": (SMALL | {"pooler_hidden_size": 32}, {"in_proj"}),
    "modernbert": (SMALL | {"pad_token_id": 0}, {"Wqkv"}),
    "mpnet": (SMALL, {"q", "v"}),
    "longformer": (SMALL | {"attention_window": [8]}, {"query", "value"}),
    "funnel": ({"vocab_size": 100, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 32,
                "block_sizes": [1]}, {"q_head", "v_head"}),
    "gpt2": ({"vocab_size": 100, "n_embd": 32, "n_layer": 1, "n_head": 2}, {"c_attn"}),
    "qwen2": (SMALL | {"num_key_value_heads": 1, "pad_token_id": 0}, {"q_proj", "v_proj"}),
}  # fmt: skip


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_every_architecture_has_default_targets_that_train_and_merge(
    architecture: str, tmp_path: Path
) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes, expected = DEFAULTS[architecture]
    config = AutoConfig.for_model(architecture, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    model = randomized(build(asked(tmp_path)))
    updated = {name.split(".lora_A.")[0].split(".")[-1] for name, _ in model.named_parameters()
               if ".lora_A." in name}  # fmt: skip
    assert updated == expected
    ids = torch.arange(5, 21)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        after = adapter.merge_adapter(model)(input_ids=ids).logits
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert before.abs().max() > 1e-3


def test_an_architecture_without_known_targets_is_one_line(tmp_path: Path) -> None:
    others()["xlnet"][0].save_pretrained(tmp_path)
    problem = "adapter.targets: no default for xlnet encoders; set it to some of its linear layers"
    with pytest.raises(UserError, match=f"^{problem}: it has layer_1, layer_2$"):
        build(asked(tmp_path))


@pytest.mark.parametrize(
    ("target", "kind"), [("word_embeddings", "Embedding"), ("LayerNorm", "LayerNorm"),
                         ("self", "BertSelfAttention"), ("dropout", "Dropout")]
)  # fmt: skip
def test_only_linear_layers_are_updated(target: str, kind: str, tmp_path: Path) -> None:
    tiny_models.encoder("bert").save_pretrained(tmp_path)
    problem = f"'{target}' is {kind} in this bert encoder; only linear layers are updated; it has"
    with pytest.raises(UserError, match=f"^adapter.targets: {problem} dense, key, query, value$"):
        adapter.check_adapter(asked(tmp_path, f'adapter.targets=["query", "{target}"]'))


def others() -> dict[str, tuple[Any, list[str], list[str]]]:
    """(model, targets, modules that are new). All but BERT have no default targets."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        DebertaV2Config,
        DebertaV2ForSequenceClassification,
        XLNetConfig,
        XLNetForSequenceClassification,
    )  # fmt: skip

    size: dict[str, Any] = {
        "vocab_size": 100,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    deberta = DebertaV2ForSequenceClassification(
        DebertaV2Config(**size, intermediate_size=32, pooler_hidden_size=32)
    )
    xlnet = XLNetForSequenceClassification(
        XLNetConfig(vocab_size=100, d_model=32, n_layer=1, n_head=2, d_inner=32)
    )
    bert = BertForSequenceClassification(BertConfig(**size, intermediate_size=32))
    return {
        "bert": (bert, ["query", "value"], ["bert.pooler", "classifier"]),
        "deberta": (deberta, ["query_proj", "value_proj"], ["classifier", "pooler"]),
        "xlnet": (xlnet, ["layer_1", "layer_2"], ["logits_proj", "sequence_summary"]),
    }


@pytest.mark.parametrize("name", ["bert", "deberta", "xlnet"])
def test_all_that_is_new_on_top_of_an_encoder_is_trained_and_saved(
    name: str, tmp_path: Path
) -> None:
    model, targets, new = others()[name]
    model.save_pretrained(tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    # As BertForMaskedLM saves an encoder.
    kept = {key: value for key, value in weights.items() if ".pooler." not in key}
    save_file(kept, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    built = build(asked(tmp_path / "base", f"adapter.targets={json.dumps(targets)}"))
    trained = {n for n, p in built.named_parameters() if p.requires_grad}
    assert {n.partition(".modules_to_save.")[0] for n in trained if ".lora_" not in n} == {*new}
    with torch.no_grad():
        for n, p in built.named_parameters():
            p.add_(0.01) if n in trained else None
    adapter.save_adapter(built, tmp_path / "adapter")
    whole = adapter.merge_adapter(built)
    again = PeftModel.from_pretrained(
        type(model).from_pretrained(
            tmp_path / "base", num_labels=len(LABELS), ignore_mismatched_sizes=True
        ),
        tmp_path / "adapter",
    ).eval()
    ids = torch.arange(5, 14)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            whole(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-5, rtol=1e-5
        )


def test_a_target_that_is_not_there_is_one_line_with_those_that_are(tmp_path: Path) -> None:
    tiny_models.encoder("distilbert").save_pretrained(tmp_path)
    with pytest.raises(
        UserError,
        match=r"this distilbert encoder has no module 'query'; it has k_lin, lin1, .*q_lin",
    ):
        build(asked(tmp_path, 'adapter.targets=["query"]'))


@pytest.mark.parametrize(
    ("package", "key"), [("bitsandbytes", "adapter.bits = 4"), ("peft", "adapter.kind = 'lora'")]
)
def test_a_missing_package_is_one_line_with_the_fix(
    package: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_models.encoder("bert").save_pretrained(tmp_path)
    from distsent.model import adapter as module

    def without(error: Exception) -> tuple[str, ...]:
        def load(name: str) -> None:
            if name == package:
                raise error

        monkeypatch.setattr(module, "import_module", load)
        with pytest.raises(UserError) as caught:
            build(asked(tmp_path, "adapter.bits=4"))
        return caught.value.lines

    assert without(ModuleNotFoundError("no", name=package)) == (
        f"{key}: needs {package}; pip install 'distsent[lora]'",
    )
    (line,) = without(ImportError("no symbol\nmore"))
    assert (
        line
        == f"{key}: needs {package}, which fails to import (ImportError: no symbol); pip install "
        "'distsent[lora]'"
    )


def test_an_adapters_configuration_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    tiny_models.encoder("bert").save_pretrained(tmp_path / "encoder")
    adapter.save_adapter(build(asked(tmp_path / "encoder")), tmp_path / "adapter")
    text = (tmp_path / "adapter" / "adapter_config.json").read_text()
    assert '"base_model_name_or_path": "encoder"' in text and str(tmp_path) not in text


def test_the_demo_model_cannot_be_kept_in_four_bits() -> None:
    problem = r"^adapter.bits = 4 needs a pretrained encoder, not model.name = 'demo'$"
    with pytest.raises(UserError, match=problem):
        build(load_job(None, ["adapter.kind=lora", "adapter.bits=4"]))


@pytest.mark.parametrize("bits", ["none", "4"])
def test_a_run_with_adapters_resumes_to_the_same_bits(bits: str, tmp_path: Path) -> None:
    import shutil

    corpus, encoder = (
        fixtures.corpus(tmp_path / "corpus", train=40, test=10),
        systems.encoder(tmp_path / "encoder", "bert"),
    )
    words = [
        f"data.source={corpus}", f"model.name={encoder}", f"run.dir={tmp_path}",
        "data.max_length=40", "train.batch_size=8", "train.max_steps=8",
        "checkpoint.every_steps=4", "checkpoint.keep=9", "adapter.kind=lora",
        f"adapter.bits={bits}", "adapter.dropout=0.2", "optim.lr=1e-2", "eval.every=end",
        "log.tensorboard=false",
    ]  # fmt: skip
    drive([entry("run", words)], World())
    run = shutil.copytree(
        tmp_path / "run", tmp_path / "again" / "run"
    )  # as an interruption would have left it
    for path in (run / "result.json", run / "model", run / "checkpoints" / "step-00000008"):
        path.unlink() if path.is_file() else shutil.rmtree(path)
    drive([entry("run", [*words[:2], f"run.dir={run.parent}", *words[3:]])], World())
    whole, again = fixtures.result(tmp_path / "run"), fixtures.result(run)
    assert "resumed at step 4 of 8" in (run / "train.log").read_text()
    assert (
        again["weights_sha256"] == whole["weights_sha256"]
        and again["eval"]["test"]["loss"] == whole["eval"]["test"]["loss"]
    )


DECODERS = {  # of tests.architectures: default targets
    "llama": {"q_proj", "v_proj"}, "qwen3": {"q_proj", "v_proj"}, "gemma": {"q_proj", "v_proj"},
    "mistral": {"q_proj", "v_proj"}, "phi": {"q_proj", "v_proj"}, "opt": {"q_proj", "v_proj"},
    "gpt2": {"c_attn"},
}  # fmt: skip


@pytest.mark.parametrize("name", DECODERS)
def test_adapters_of_decoders_train_save_and_load(name: str, tmp_path: Path) -> None:
    """On 32, 16 and 4 bits: a batch by distsent, merged, in a pipeline, and over the base by PEFT.

    Neither the configuration nor the tokenizer of most of them has a padding token.
    """
    from transformers import AutoModelForSequenceClassification, pipeline

    base, texts = architectures.save(name, tmp_path / "base"), [" ".join(fixtures.WORDS[1:n])
                                                                for n in (3, 9, 17)]  # fmt: skip
    for bits in ("none", "16", "4"):
        tokenizer = load_tokenizer(str(base))
        job = asked(base, f"adapter.bits={bits}")
        model = randomized(adapter.build_model(job, tokenizer, LABELS).model)
        trained = {n for n, p in model.named_parameters() if p.requires_grad}
        assert {n.split(".lora_A.")[0].split(".")[-1] for n in trained if ".lora_A." in n} == (
            DECODERS[name]
        )
        assert {n.split(".")[0] for n in trained if ".lora_" not in n} == {"score"}
        assert model.config.pad_token_id == tokenizer.pad_token_id is not None
        folder = tmp_path / bits
        write_model_folder(model, tokenizer, folder, 64, Owner())
        forward, _ = choose_forward(model, tokenizer)
        ids = [np.array(x) for x in tokenizer(texts)["input_ids"]]
        with torch.no_grad():
            expected = forward(pack(ids, np.zeros(len(ids)))).softmax(-1).numpy()
        classify = pipeline("text-classification", str(folder), top_k=None, batch_size=3)
        found = [{x["label"]: x["score"] for x in one} for one in classify(texts)]
        by_pipeline = [[one[label] for label in LABELS] for one in found]
        np.testing.assert_allclose(by_pipeline, expected, atol=1e-5)
        assert np.abs(expected - expected[:1]).max() > 1e-3, "the text matters"
        if bits != "16":
            again = AutoModelForSequenceClassification.from_pretrained(
                base, num_labels=3, pad_token_id=tokenizer.pad_token_id,
                ignore_mismatched_sizes=True, dtype=torch.float32,
                quantization_config=adapter.nf4_config(["score"]) if bits == "4" else None,
            )  # fmt: skip
            adapter.keep_4bit_weights(again)
            peft = PeftModel.from_pretrained(again, str(folder / "adapter")).eval()
            with torch.no_grad():
                logits = peft(**tokenizer(texts, padding=True, return_tensors="pt")).logits
            np.testing.assert_allclose(logits.softmax(-1), expected, atol=1e-5)


# Architectures that look at weights themselves: Gemma scales embeddings in their dtype, by a number
# that is rounded in 16 bits; T5 converts the input of a layer to its; DeBERTa reads a table; the
# router of PhiMoE is a linear layer that returns more than a product.
READ: dict[str, dict[str, int]] = {
    "gemma": {"hidden_size": 24}, "t5": {}, "deberta-v2": {}, "phimoe": {},
}  # fmt: skip


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "bert", *READ])
def test_a_base_in_16_bits_computes_the_same_bits_under_autocast(name: str, tmp_path: Path) -> None:
    base = architectures.save(name, tmp_path / "base", **READ.get(name, {}))
    models = []
    for bits in ("none", "16"):
        model = randomized(build(asked(base, f"adapter.bits={bits}")))
        models.append(model)
    frozen = [p for p in models[1].parameters() if not p.requires_grad and p.dim() > 1]
    assert {
        p.dtype for p in frozen if p.shape != models[1].get_input_embeddings().weight.shape
    } >= {torch.bfloat16}
    wide = models[0]
    for p, q in zip(wide.parameters(), models[1].parameters(), strict=True):
        if q.dtype == torch.bfloat16:
            p.data = q.data.float()
    ids = torch.arange(5, 21)[None]
    ids[0, -1] = 3  # T5 reads the last eos token
    for precision in (torch.bfloat16, None) if name != "deberta-v2" else (None,):
        with torch.autocast("cpu", precision, enabled=precision is not None):
            a, b = (model(input_ids=ids).logits for model in models)
        assert torch.equal(a, b)
        gradients = []
        for model, out in zip(models, (a, b), strict=True):
            model.zero_grad()
            out.float().square().sum().backward()
            gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        assert all(torch.equal(x, y) for x, y in zip(*gradients, strict=True))


def test_what_fails_on_a_base_in_16_bits_says_so(tmp_path: Path) -> None:
    base = architectures.save("layoutlm", tmp_path)
    job, tokenizer = asked(base, "adapter.bits=16"), load_tokenizer(str(base))
    forward = PaddedForward(adapter.build_model(job, tokenizer, LABELS).model, 0)
    problem = "^adapter.bits = 16: LayoutLMForSequenceClassification fails on a batch of two .*"
    with pytest.raises(UserError, match=problem + '; set it to "none" or 4$'):
        usable_precision(forward, tokenizer, "float32", None)
