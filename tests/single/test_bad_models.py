"""Models as people have them: each loads as it was meant, or is refused in one line.

Every case is a folder and the command that a user types on it, in this process.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline
from xxhash import xxh3_128_hexdigest

from distsent import cli, evaluate, predict, train
from distsent.job.schema import ModelSection
from distsent.model.classifier import build_classifier, token_limit
from distsent.model.dropout_rates import set_dropout_rates, unset_dropout_rates
from distsent.model.head import check_head
from distsent.model.tokenizer import load_tokenizer, padding_id
from distsent.reporting import plots
from distsent.runtime import device
from distsent.training.flat_parameters import undecayed_names
from tests import architectures, fixtures, systems
from tests.parallel.driver import NoSignals

# Changes a model's folder.
Harm = Callable[[Path], None]
Tensors = dict[str, torch.Tensor]
Typed = Callable[..., tuple[int, str, str]]

WEIGHTS, LFS = "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
TEXTS = [str(row["text"]) for row in fixtures.rows(6, longest=10, seed=5)]
SMALL: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip
DECODER = {"eos_token_id": 3, "bos_token_id": 2}
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 100, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "qwen2": SMALL | DECODER | {"num_key_value_heads": 1, "pad_token_id": None, "vocab_size": 300},
    "llama": SMALL | DECODER | {"num_key_value_heads": 1, "pad_token_id": None},
    "mpnet": SMALL | {"pad_token_id": 0},
    "xlnet": {"vocab_size": 100, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    "funnel": {"vocab_size": 100, "block_sizes": [1, 1, 1], "d_model": 16, "n_head": 2,
               "d_head": 8, "d_inner": 32},
    "deberta": SMALL | {"pooler_hidden_size": 16, "relative_attention": True,
                        "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0},
    "xmod": SMALL | {"languages": ["en_XX"], "default_language": "en_XX"},
    "nystromformer": SMALL | {"num_landmarks": 4, "segment_means_seq_len": 64},
    "canine": SMALL,
    "modernbert": SMALL | {"pad_token_id": 0},
    "deberta-v2": SMALL | {"pooler_hidden_size": 16},
    "roberta-prelayernorm": SMALL,
    "bart": {"vocab_size": 100, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
             "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
             "decoder_ffn_dim": 32, "encoder_layerdrop": 0.1},
}  # fmt: skip


def architecture(kind: str) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES[kind])
    return AutoModelForSequenceClassification.from_config(config)


def rewritten(kind: str, folder: Path) -> None:
    """Replace the encoder by one of another architecture, and keep the tokenizer."""
    (folder / WEIGHTS).unlink()
    architecture(kind).base_model.save_pretrained(folder)


def classifier(folder: Path, **names: Any) -> None:
    """Replace the encoder by a classifier with the same encoder."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, **names)
    model.save_pretrained(folder)


def weights(change: Callable[[Tensors], Tensors], folder: Path) -> None:
    tensors = change(load_file(folder / WEIGHTS))
    kept = {name: x.contiguous().clone() for name, x in tensors.items()}
    save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})


def renamed(rename: Callable[[str], str]) -> Harm:
    return partial(weights, lambda tensors: {rename(name): x for name, x in tensors.items()})


def under(*prefixes: str) -> Harm:
    """Weights under a prefix; more than one: a copy under each."""
    return partial(
        weights, lambda tensors: {p + name: x for p in prefixes for name, x in tensors.items()}
    )


def without(part: str) -> Harm:
    return partial(weights, lambda t: {name: x for name, x in t.items() if part not in name})


def each(change: Callable[[torch.Tensor], torch.Tensor], part: str = "") -> Harm:
    return partial(
        weights, lambda t: {name: change(x) if part in name else x for name, x in t.items()}
    )


def values(name: str, **changes: Any) -> Harm:
    """Change keys in a json file; `...` removes a key."""

    def harm(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        content = {key: value for key, value in content.items() if value is not ...}
        (folder / name).write_text(json.dumps(content))

    return harm


config = partial(values, "config.json")
tokenizer = partial(values, "tokenizer_config.json")


def moved(old: str, new: str | None, content: bytes | None = None) -> Harm:
    """Rename a file, or delete it; `content` replaces the file's own."""

    def harm(folder: Path) -> None:
        kept = (folder / old).read_bytes() if content is None else content
        (folder / old).unlink()
        if new is not None:
            (folder / new).parent.mkdir(exist_ok=True)
            (folder / new).write_bytes(kept)

    return harm


def all_of(*harms: Harm) -> Harm:
    def harm(folder: Path) -> None:
        for one in harms:
            one(folder)

    return harm


def cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def shards(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder).base_model
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="70KB")


def first_shard(folder: Path) -> str:
    return min(path.name for path in folder.glob("model-00001-*"))


def missing_shard(folder: Path) -> None:
    shards(folder)
    (folder / first_shard(folder)).unlink()


def trainer_output(folder: Path) -> None:
    for step in (500, 1000):
        (folder / f"checkpoint-{step}").mkdir()
        for name in ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"):
            (folder / f"checkpoint-{step}" / name).write_bytes((folder / name).read_bytes())
    for name in ("config.json", WEIGHTS):
        (folder / name).unlink()


def adapter_alone(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / WEIGHTS).unlink()
    beside(folder)


def beside(folder: Path) -> None:
    said = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(said))


def first_token_type(kind: int, folder: Path) -> None:
    """Give each text's first token a type of its own, as the tokenizers of XLNet and Funnel do."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"][0]["SpecialToken"]["type_id"] = kind
    (folder / "tokenizer.json").write_text(json.dumps(content))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer(model_input_names=names)(folder)


def byte_level(folder: Path) -> None:
    """The tokenizer of GPT-2 and Qwen: pairs of bytes, and one special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend, end = Tokenizer(models.BPE()), "<|endoftext|>"
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[end], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end).save_pretrained(folder)


def sentencepiece(folder: Path) -> None:
    rewritten("deberta-v2", folder)
    moved("tokenizer.json", "spm.model", b"\n\x0e\n\x05<unk>")(folder)
    (folder / "tokenizer_config.json").unlink()


PICKLE = "which distsent never reads; docs/jobs.md shows how to convert them once"
MERGE = "it belongs to org/base: merge it with peft's merge_and_unload(), and save the result"
READ = f"transformers {transformers.__version__} must be able to read its files"
ENCODER = "its weights lack 37 of 37 tensors below the head (bert.embeddings.LayerNorm.bias, "
ENCODER += "bert.embeddings.LayerNorm.weight, bert.embeddings.position_embeddings.weight and 34 "
ENCODER += "more); they hold tensors of these names under"

# Models that train must refuse: (case, what is done to the folder, what the line says of it).
REFUSED: list[tuple[str, Harm, str]] = [
    ("an unknown prefix", under("weird."),
     f"{ENCODER} 'weird.': rename those to use, without the prefix"),
    ("two encoders", under("student.", "teacher."),
     f"{ENCODER} 'student.' and 'teacher.': rename those to use, without the prefix"),
    ("wrappers inside", renamed(lambda n: n.replace("layer.1.", "layer.1._fsdp_wrapped_module.")),
     "its weights lack 16 of 37 tensors below the head "
     "(bert.encoder.layer.1.attention.output.LayerNorm.bias, "
     "bert.encoder.layer.1.attention.output.LayerNorm.weight, "
     "bert.encoder.layer.1.attention.output.dense.bias and 13 more); they hold names with "
     "'_fsdp_wrapped_module' inside: save the model without the wrappers"),
    ("a missing layer", without("layer.1.output.dense"),
     "its weights lack 2 of 37 tensors below the head (bert.encoder.layer.1.output.dense.bias, "
     "bert.encoder.layer.1.output.dense.weight); is its config.json that of another model?"),
    ("more layers by the configuration", config(num_hidden_layers=3),
     "its weights lack 16 of 53 tensors below the head "
     "(bert.encoder.layer.2.attention.output.LayerNorm.bias, "
     "bert.encoder.layer.2.attention.output.LayerNorm.weight, "
     "bert.encoder.layer.2.attention.output.dense.bias and 13 more); is its config.json that of "
     "another model?"),
    ("a wrapper around a part", all_of(without("layer.1.output.dense"), under("module.")),
     "its weights lack 2 of 37 tensors below the head (bert.encoder.layer.1.output.dense.bias, "
     "bert.encoder.layer.1.output.dense.weight); is its config.json that of another model?"),
    ("a larger embedding table", config(vocab_size=120),
     "bert.embeddings.word_embeddings.weight is [100, 32] in its weights and [120, 32] by its "
     "config.json: the two do not belong together"),
    ("a smaller vocabulary than the tokenizer's",
     all_of(config(vocab_size=90), each(lambda x: x[:90], "word_embeddings")),
     "its tokenizer has 100 tokens, but its encoder has only 90 embeddings: they do not match"),
    ("NaN", each(lambda x: x * torch.nan, "layer.0.output.dense.weight"),
     "its weights are not finite numbers in bert.encoder.layer.0.output.dense.weight"),
    ("integers", each(lambda x: (x * 10).to(torch.int8), "query.weight"),
     "its weights are quantized (encoder.layer.0.attention.self.query.weight is I8); use the "
     "original weights"),
    ("weights saved in four bits", config(quantization_config={"quant_method": "bitsandbytes"}),
     "its weights are quantized (quantization_config in its config.json); use the original "
     "weights: adapter.bits = 4 quantizes them"),
    ("updates beside the weights",
     renamed(lambda n: n.replace("query.weight", "query.base_layer.weight")),
     "its weights hold LoRA updates beside the model "
     "(encoder.layer.0.attention.self.query.base_layer.weight, "
     "encoder.layer.1.attention.self.query.base_layer.weight); merge them into the model with "
     "peft's merge_and_unload(), and save it"),
    ("a git-lfs pointer", moved(WEIGHTS, WEIGHTS, LFS.encode()),
     "model.safetensors is a git-lfs pointer, not the file itself; run git lfs pull in that "
     "folder"),
    ("a pointer to the tokenizer", moved("tokenizer.json", "tokenizer.json", LFS.encode()),
     "tokenizer.json is a git-lfs pointer, not the file itself; run git lfs pull in that folder"),
    ("a file cut short", cut_short,
     "model.safetensors is damaged or cut short (61,448 bytes: incomplete metadata, file not fully "
     "covered); copy or download it again"),
    ("a web page", moved(WEIGHTS, WEIGHTS, b"<html>404</html>"),
     "model.safetensors is damaged or cut short (16 bytes: header too large); copy or download it "
     "again"),
    ("a missing shard", missing_shard,
     "1 of 2 files of its weights are missing (model-00001-of-00002.safetensors); copy or download "
     "them again"),
    ("a sharded pickle", moved(WEIGHTS, "pytorch_model-00001-of-00002.bin"),
     f"its only weights are a pickle (pytorch_model-00001-of-00002.bin), {PICKLE}"),
    ("a checkpoint of torch", moved(WEIGHTS, "best.pt"),
     f"its only weights are a pickle (best.pt), {PICKLE}"),
    ("TensorFlow", moved(WEIGHTS, "tf_model.h5"),
     "its only weights are in tf_model.h5; save it with transformers as model.safetensors"),
    ("another name", moved(WEIGHTS, "model.fp16.safetensors"),
     "there is no model.safetensors, only model.fp16.safetensors: rename it if it holds the "
     "weights"),
    ("no weights", moved(WEIGHTS, None), "no weights in it: there is no model.safetensors"),
    ("no configuration", moved("config.json", None),
     "neither a run nor a saved model (no config.json)"),
    ("a configuration cut short", moved("config.json", "config.json", b'{"model_type": "be'),
     "config.json is not JSON (Unterminated string starting at: line 1 column 16 (char 15)); copy "
     "or download it again"),
    ("a configuration of no architecture", config(model_type=...),
     'its config.json has no model_type; add its architecture, e.g. "bert"'),
    ("an activation that does not exist", config(hidden_act="gelux"),
     f"cannot be loaded (KeyError: 'gelux'); {READ}"),
    ("a number as text", config(layer_norm_eps="1e-12"),
     "cannot be loaded (StrictDataclassFieldValidationError: Validation error for field "
     "'layer_norm_eps':     TypeError: Field 'layer_norm_eps' expected float, got str (value: "
     f"'1e-12')); {READ}"),
    ("no tokenizer", moved("tokenizer.json", None),
     "it has no tokenizer (tokenizer.json); copy that of its base model"),
    ("a tokenizer cut short", moved("tokenizer.json", "tokenizer.json", b"{"),
     "tokenizer.json is not JSON (Expecting property name enclosed in double quotes: line 1 column "
     "2 (char 1)); copy or download it again"),
    ("the folder around it", all_of(moved("config.json", "best/config.json")),
     "neither a run nor a saved model (no config.json); did you mean {folder}/best?"),
    ("a Trainer's output", trainer_output,
     "holds checkpoints of a training, not a model; did you mean {folder}/checkpoint-1000?"),
    ("an adapter alone", adapter_alone, f"an adapter alone, without its model; {MERGE}"),
    ("an adapter beside the model", beside,
     f"holds an adapter beside the model (adapter_config.json); {MERGE}"),
    ("sentencepiece", sentencepiece,
     "its tokenizer is a sentencepiece model, which needs sentencepiece; pip install "
     "'distsent[sentencepiece]'"),
    ("token types that the encoder lacks", partial(first_token_type, 2),
     "its tokenizer makes token types up to 2, but its encoder has 2: they do not match"),
]  # fmt: skip
WHOLE_LINES: list[tuple[str, Harm, str]] = [
    ("a decoder that cannot pad", all_of(partial(rewritten, "gpt2"),
                                         tokenizer(pad_token=..., eos_token=...)),
     "model.name: gpt2 reads the last token before the padding, but its tokenizer has no padding "
     'token: set "pad_token" in its tokenizer_config.json'),
    ("texts of one length only", partial(rewritten, "nystromformer"),
     "model.name: NystromformerForSequenceClassification fails on a batch of two short texts "
     "(RuntimeError: shape '[-1, 2, 4, 16, 8]' is invalid for input of size 48)"),
    ("characters instead of tokens", partial(rewritten, "canine"),
     "CanineForSequenceClassification is not supported: its input embedding is not nn.Embedding"),
]  # fmt: skip

# Weights that load completely all the same: they train to the same weights as the plain encoder.
LOADED: list[tuple[str, Harm, str]] = [
    *((f"stored under {prefix}", under(prefix),
       f"its weights are stored under '{stripped or prefix}', which was stripped")
      for prefix, stripped in (
          ("module.", ""), ("model.", ""), ("encoder.", ""), ("roberta.", ""),
          ("base_model.model.", ""), ("0.auto_model.", ""), ("_orig_mod.module.", ""),
          ("module.encoder.bert.", "module.encoder."), ("_forward_module.text_encoder.", ""))),
    ("stored with the base's own prefix", under("bert."), "newly initialized: classifier.bias, "
                                                          "classifier.weight"),
    ("names of TensorFlow", renamed(lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma")
                                    .replace("LayerNorm.bias", "LayerNorm.beta")), ""),
    ("positions as a buffer", partial(weights, lambda t: {**t, "embeddings.position_ids":
                                                          torch.arange(258)[None]}), ""),
    ("an unused layer", partial(weights, lambda t: {**t, "encoder.layer.2.output.dense.bias":
                                                    torch.zeros(32)}),
     "not used, as config.json has no place for it: encoder.layer.2.output.dense.bias"),
    ("shards", shards, ""),
    ("a head for other classes", partial(classifier, num_labels=5), ""),
]  # fmt: skip

# Bases whose configuration or tokenizer says something else than this job.
BASES: list[tuple[str, Harm]] = [
    ("several labels", config(problem_type="multi_label_classification", architectures=["Ours"])),
    ("a regression", config(problem_type="regression", num_labels=1, id2label={"0": "LABEL_0"})),
    ("other labels", config(id2label={"0": "A", "1": "B", "2": "C", "3": "D"}, label2id={"X": 9},
                            dtype="float16", torch_dtype="float16")),
    ("seven labels, settings of a pipeline", config(
        num_labels=7, function_to_apply="sigmoid", task_specific_params={
            "text-classification": {"problem_type": "regression", "function_to_apply": "none"}})),
    ("FlashAttention, any float type", config(
        dtype="auto", _attn_implementation="flash_attention_2", use_cache=True)),
    ("tuples and hidden states", config(return_dict=False, output_hidden_states=True)),
    ("a causal BERT", config(is_decoder=True)),
    ("another padding token, on the left", all_of(config(pad_token_id=3),
                                                  tokenizer(padding_side="left"))),
    ("no padding token in the configuration, no limit", all_of(config(pad_token_id=None),
                                                               tokenizer(model_max_length=...))),
    ("no padding token in the tokenizer", tokenizer(pad_token=...)),
    ("no attention mask", tokenizer(model_input_names=["input_ids"])),
    ("a type for the first token", partial(first_token_type, 1)),
    ("MPNet without padding token", all_of(partial(rewritten, "mpnet"), tokenizer(pad_token=...))),
    ("GPT-2, left, no padding token", all_of(
        partial(rewritten, "gpt2"), tokenizer(pad_token=..., eos_token="[SEP]",
                                              padding_side="left"))),
    ("Llama, no padding token", all_of(partial(rewritten, "llama"), config(pad_token_id=-1),
                                       tokenizer(pad_token=..., eos_token="[SEP]"))),
    ("Qwen, several labels", all_of(
        partial(rewritten, "qwen2"), config(problem_type="multi_label_classification"),
        byte_level)),
    ("Funnel and short texts", partial(rewritten, "funnel")),
    ("XLNet, of any length", partial(rewritten, "xlnet")),
]  # fmt: skip

# Saved classifiers that evaluate and predict must refuse.
CLASSIFIERS: list[tuple[str, Harm, str]] = [
    ("another number of classes", all_of(classifier, config(id2label=dict(enumerate("abcd")))),
     "{folder}: an encoder without a classification head (its weights lack classifier.bias, "
     "classifier.weight); train a classifier from it with model.name={folder}"),
    ("without a head", all_of(classifier, without("classifier")),
     "{folder}: an encoder without a classification head (its weights lack classifier.bias, "
     "classifier.weight); train a classifier from it with model.name={folder}"),
    ("without a pooler", all_of(classifier, without("pooler")),
     "{folder}: an encoder without a classification head (its weights lack "
     "bert.pooler.dense.bias, bert.pooler.dense.weight); train a classifier from it with "
     "model.name={folder}"),
    ("without a layer", all_of(classifier, without("layer.0.output.dense.bias")),
     "model = '{folder}': its weights lack 1 of 37 tensors below the head "
     "(bert.encoder.layer.0.output.dense.bias); is its config.json that of another model?"),
    ("with NaN in the head", all_of(classifier, each(lambda x: x * torch.nan, "classifier.bias")),
     "model = '{folder}': its weights are not finite numbers in classifier.bias"),
    ("with too many tokens", all_of(classifier, config(vocab_size=90),
                                    each(lambda x: x[:90], "word_embeddings")),
     "model = '{folder}': its tokenizer has 100 tokens, but its encoder has only 90 embeddings: "
     "they do not match"),
    ("of a number, or of a yes or no", partial(classifier, num_labels=1),
     "model = '{folder}': it has a single label, and may mean a number or a yes or no by it; its "
     'config.json needs "problem_type": "regression" or "multi_label_classification"'),
    ("as a pointer", all_of(classifier, moved(WEIGHTS, WEIGHTS, LFS.encode())),
     "model = '{folder}': model.safetensors is a git-lfs pointer, not the file itself; run git lfs "
     "pull in that folder"),
    ("a Trainer's output", trainer_output,
     "{folder}: holds checkpoints of a training, not a model; did you mean "
     "{folder}/checkpoint-1000?"),
]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    return fixtures.corpus(folder / "corpus", train=24, validation=6, test=12)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return systems.encoder(tmp_path / "model", "bert")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Typed]:
    """Run a program in this process: (exit code, standard output, standard error)."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(train, "StopSignal", NoSignals)
    monkeypatch.setattr(plots, "available", lambda: False)  # they take longer than the training

    def run(program: Any, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(program.main)
        out, err = capsys.readouterr()
        return int(str(ended.value.code)), out, err

    yield run
    torch.set_num_threads(threads)


def job(folder: Path, corpus: Path, *more: str) -> list[str]:
    """Words for `train`: the token store is beside the corpus, for all cases."""
    return [
        f"data.source={corpus}", f"data.store={corpus.parent / 'stores'}", f"model.name={folder}",
        f"run.dir={folder.parent}", "job.name=run", "data.max_length=48", "train.max_steps=2",
        "train.batch_size=8", "train.precision=float32", "eval.every=end", "optim.lr=1e-3",
        "log.tensorboard=false", *more,
    ]  # fmt: skip


def log_of(folder: Path) -> str:
    return (folder.parent / "run" / "train.log").read_text()


def named(cases: Any) -> Any:
    return pytest.mark.parametrize(
        "case", cases, ids=[re.sub(r"\W+", "-", case[0]) for case in cases]
    )


@named(REFUSED + WHOLE_LINES)
def test_train_refuses_a_model_in_one_line(
    case: tuple[str, Harm, str], folder: Path, corpus: Path, typed: Typed
) -> None:
    _, harm, problem = case
    harm(folder)
    start = "" if case in WHOLE_LINES else f"model.name = '{folder}': "
    line = f"distsent: {start}{problem.replace('{folder}', str(folder))}\n"
    assert typed(train, *job(folder, corpus)) == (2, "", line)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> str:
    """The hash of the weights that the encoder trains to as it was published."""
    from distsent.distributed.world import World
    from distsent.job import load_job
    from distsent.training.session import TrainingRun

    folder = systems.encoder(tmp_path_factory.mktemp("plain") / "model", "bert")
    TrainingRun(load_job(None, job(folder, corpus)), World(), NoSignals()).train()
    return str(fixtures.result(folder.parent / "run")["weights_sha256"])


@named(LOADED)
def test_weights_that_load_completely_train_as_always(
    case: tuple[str, Harm, str], folder: Path, corpus: Path, typed: Typed, plain: str
) -> None:
    _, harm, line = case
    harm(folder)
    code, _, _ = typed(train, *job(folder, corpus))
    result = fixtures.result(folder.parent / "run")
    assert (code, result["weights_sha256"]) == (0, plain)
    assert line in log_of(folder)
    assert result["newly_initialized"] == ["classifier.bias", "classifier.weight"]
    card = (folder.parent / "run" / "model" / "README.md").read_text()
    assert "Newly initialized: `classifier.bias`, `classifier.weight`." in card


@named(BASES)
def test_a_pipeline_computes_the_scores_of_predict(
    case: tuple[str, Harm], folder: Path, corpus: Path, typed: Typed
) -> None:
    case[1](folder)
    run = folder.parent / "run"
    code, _, err = typed(train, *job(folder, corpus))
    assert code == 0, err
    code, out, err = typed(predict, run, *TEXTS)
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    code, out, err = typed(evaluate, run, f"data.store={corpus.parent / 'stores'}")
    assert code == 0
    tested = fixtures.result(run)["eval"]["test"]
    assert json.loads(out)["loss"] == pytest.approx(tested["loss"], abs=1e-6)
    classify = pipeline("text-classification", str(run / "model"), device="cpu", top_k=None)
    exact = ["xlnet", "funnel"]  # others may be padded in a pipeline
    for size in (1, 3) if classify.model.config.model_type not in exact else (1,):
        if classify.model.config.model_type == "funnel":
            continue  # transformers' own Funnel fails on texts of one word
        for ours, theirs in zip(answers, classify(TEXTS, batch_size=size), strict=True):
            scores = {one["label"]: one["score"] for one in theirs}
            assert ours["scores"] == pytest.approx(scores, abs=1e-5)
            assert ours["label"] == max(scores, key=lambda name: scores[name])


@named(CLASSIFIERS)
def test_evaluate_and_predict_refuse_a_saved_model_in_one_line(
    case: tuple[str, Harm, str], folder: Path, corpus: Path, typed: Typed
) -> None:
    _, harm, problem = case
    harm(folder)
    line = f"distsent: {problem.replace('{folder}', str(folder))}\n"
    assert typed(predict, folder, "a text") == (2, "", line)
    if problem.startswith("model"):
        assert typed(evaluate, folder, f"data.source={corpus}") == (2, "", line)


def test_a_saved_classifier_under_a_wrapper_predicts_as_always(folder: Path, typed: Typed) -> None:
    classifier(folder)
    expected = typed(predict, folder, *TEXTS)
    assert expected[0] == 0 and expected[2] == ""
    under("_orig_mod.")(folder)
    code, out, err = typed(predict, folder, *TEXTS)
    assert (code, out) == expected[:2]
    stripped = "its weights are stored under '_orig_mod.', which was stripped"
    assert err == f"distsent: model = '{folder}': {stripped}\n"


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5", "t5gemma"])
def test_sizes_and_padding_may_be_in_the_configuration_of_the_text(
    name: str, tmp_path: Path
) -> None:
    """Where published models have them. That of Qwen 3.5 has no padding token."""
    encoder = str(architectures.save(name, tmp_path))
    tokenizer = load_tokenizer(encoder)
    model = build_classifier(ModelSection(name=encoder), tokenizer, fixtures.LABELS, 0).model
    text: Any = model.config.get_text_config()
    assert text is not model.config and not hasattr(model.config, "hidden_size")
    pad = tokenizer.pad_token_id
    assert {text.pad_token_id, model.config.pad_token_id, padding_id(model.config, None)} == {pad}
    assert token_limit(model) == text.max_position_embeddings
    check_head(model)


@pytest.mark.parametrize(("kind", "name"), [("deberta", "Deberta"), ("xmod", "Xmod")])
def test_auto_avoids_a_precision_that_an_architecture_fails_in(
    kind: str, name: str, folder: Path, corpus: Path, typed: Typed, monkeypatch: Any
) -> None:
    rewritten(kind, folder)
    words = [word for word in job(folder, corpus) if not word.startswith("train.precision")]
    fault = f"transformers' {name}ForSequenceClassification fails in bf16 (RuntimeError: "
    code, _, err = typed(train, *words, "train.precision=bf16")
    assert code == 2 and err.startswith(f"distsent: train.precision = 'bf16': {fault}")
    assert err.endswith("); use float32\n") and err.count("\n") == 1
    monkeypatch.setattr(device, "faster_precision", lambda device: "bf16")
    assert typed(train, *words, "train.precision=auto")[0] == 0
    assert f"this run uses float32: {fault}" in log_of(folder)
    assert fixtures.result(folder.parent / "run")["precision"] == "float32"


def test_updates_do_not_resume_on_other_weights(folder: Path, corpus: Path, typed: Typed) -> None:
    words = job(folder, corpus, "adapter.kind=lora", "checkpoint.every_steps=1")
    run = folder.parent / "run"
    assert typed(train, *words)[0] == 0
    (run / "result.json").unlink()
    assert typed(train, *words)[0] == 0
    (run / "result.json").unlink()
    each(lambda x: x + 1e-3, "layer.0.output.dense.bias")(folder)
    problem = "the checkpoint of step 2 updates other frozen weights: those of model.name have "
    problem += "changed since, or distsent now keeps them in another precision; restore them, or "
    problem += "run.resume=never starts over"
    assert typed(train, *words) == (2, "", f"distsent: {problem}\n")
    state = max((run / "checkpoints").glob("step-*")) / "state.json"
    assert json.loads(state.read_text())["frozen"]


def older(run: Path) -> None:
    """What older versions left: no hash of frozen weights, none of the encoder."""
    for path in (run / "checkpoints").glob("step-*"):
        values("state.json", frozen=...)(path)
        text = (path / "state.json").read_bytes()
        hashed = {"bytes": len(text), "xxh3_128": xxh3_128_hexdigest(text)}
        values("manifest.json", **{"state.json": hashed})(path)
    values("job.json", encoder=...)(run)


def test_runs_of_older_versions_resume(folder: Path, corpus: Path, typed: Typed) -> None:
    words = job(folder, corpus, "adapter.kind=lora", "checkpoint.every_steps=1")
    run = folder.parent / "run"
    assert typed(train, *words)[0] == 0
    sha = fixtures.result(run)["weights_sha256"]
    (run / "result.json").unlink()
    older(run)
    assert typed(train, *words)[0] == 0 and fixtures.result(run)["weights_sha256"] == sha


def swapped_words(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    for old, new in (('"w1"', '"w?"'), ('"w2"', '"w1"'), ('"w?"', '"w2"')):
        text = text.replace(old, new)
    (folder / "tokenizer.json").write_text(text)


def test_a_run_does_not_resume_with_another_encoder(
    folder: Path, corpus: Path, typed: Typed
) -> None:
    words = job(folder, corpus, "checkpoint.every_steps=1")
    run = folder.parent / "run"
    assert typed(train, *words)[0] == 0
    (run / "result.json").unlink()
    fix = "run.resume=changed to resume anyway, or run.resume=never to start over"
    for harm, name, part in (
        (swapped_words, "tokenizer.json", "tokenizer"),
        (config(hidden_act="relu"), "config.json", "configuration"),
    ):
        kept = (folder / name).read_bytes()
        harm(folder)
        problem = f"{run}: model.name has another {part} than when this run was started"
        line = f"distsent: {problem}; restore the original one, or {fix}\n"
        assert typed(train, *words) == (2, "", line)
        (folder / name).write_bytes(kept)
    assert typed(train, *words)[0] == 0


def test_a_head_that_is_not_new_is_named(folder: Path, corpus: Path, typed: Typed) -> None:
    classifier(folder, id2label={0: "good", 1: "bad", 2: "fair"})
    assert typed(train, *job(folder, corpus))[0] == 0
    line = "not new: classifier.bias, classifier.weight, which model.name trained for good, bad, "
    assert f"{line}fair\n" in log_of(folder)
    assert fixtures.result(folder.parent / "run")["newly_initialized"] == []


@pytest.mark.parametrize("kind", [*SIZES])
def test_dropout_sets_every_rate_or_names_it(kind: str) -> None:
    def rates(model: Any) -> set[float]:
        modules = {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)}
        return modules | {
            value
            for holder in (model.config, *model.modules())
            for key, value in vars(holder).items()
            if "drop" in key and "layerdrop" not in key and isinstance(value, float)
        }

    for rate in (0.25, 0.0):
        config = AutoConfig.for_model(kind, **SIZES[kind])
        set_dropout_rates(config, rate)
        model = AutoModelForSequenceClassification.from_config(config)
        line = unset_dropout_rates(model, rate)
        kept = "model.dropout = 0.25 does not change encoder_layerdrop = 0.1, layerdrop = 0.1"
        assert line == (kept if kind == "bart" and rate else None)
        assert rates(model) <= {rate}


UNDECAYED = {  # some that names alone would decide wrongly, by architecture
    "gpt2": ({"transformer.h.0.ln_1.weight", "transformer.ln_f.weight"},
             {"transformer.wte.weight"}),
    "llama": ({"model.norm.weight", "model.layers.0.input_layernorm.weight"},
              {"model.layers.0.mlp.up_proj.weight"}),
    "roberta-prelayernorm": (
        {"roberta_prelayernorm.LayerNorm.weight"},
        {"roberta_prelayernorm.encoder.layer.0.output.dense.weight",
         "roberta_prelayernorm.embeddings.word_embeddings.weight"}),
    "deberta": ({"deberta.encoder.layer.0.attention.self.q_bias",
                 "deberta.embeddings.LayerNorm.weight"}, {"pooler.dense.weight"}),
    "xlnet": ({"transformer.layer.0.rel_attn.r_w_bias"}, {"transformer.layer.0.rel_attn.q"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*UNDECAYED])
def test_weight_decay_is_decided_by_the_type_of_the_module(kind: str) -> None:
    model, (never, always) = architecture(kind), UNDECAYED[kind]
    found, names = undecayed_names(model), {name for name, _ in model.named_parameters()}
    assert never <= found and always <= names - found
