"""data.template: tokens of the filled template, of which windows cut the text alone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, pipeline

from distsent import evaluate, export, predict
from distsent.data.folds import data_of_fold
from distsent.data.tokens.batch_tokenizer import BatchTokenizer, flat_ids
from distsent.data.tokens.long_texts import CUT, HEAD_TAIL, WINDOWS, LongTexts, Windows
from distsent.data.tokens.store import open_token_store
from distsent.data.tokens.template import Template, recorded
from distsent.distributed.world import World
from distsent.evaluation.predictor import Predictor
from distsent.job import load_job
from distsent.job.schema import ModelSection
from distsent.job.template import parse_template
from distsent.model.classifier import build_classifier
from distsent.reporting.finished_run import read_run
from distsent.training.session import TrainingRun
from tests import architectures, fixtures
from tests.dataset_files import data, folder, mistakes, own_cache, tokenizer  # noqa: F401
from tests.parallel.driver import NoSignals

pytestmark = pytest.mark.usefixtures("own_cache")
ALLOWED = "expected {text} once, and for pairs {pair} once; {{ and }} stand for braces"


# the key


@pytest.mark.parametrize(("value", "problem"), [
    ("Review: {review}", "has {review}"),
    ("{text} or {text}", "has {text} 2 times"),
    ("Review:", "has no {text}"),
    ('""', "has no {text}"),
    ("{{text}}", "has no {text}"),
    ("{}", "has {}"),
    ("{text!r}", "has {text!r}"),
    ("{text:>80}", "has {text:>80}"),
    ("{text.x}", "has {text.x}"),
    ("{text", "a brace without its other one"),
    ("a } {text}", "a brace without its other one"),
    ("{text}{pair}", "has nothing between {text} and {pair}"),
])  # fmt: skip
def test_what_is_wrong_with_a_template_is_one_line(value: str, problem: str) -> None:
    (line,) = mistakes(lambda: load_job(None, [f"data.template={value}"]))
    shown = json.dumps(value.strip('"'))
    assert line == f"command line: data.template = {shown}: {problem}; {ALLOWED}"


def test_a_template_is_for_pairs_or_for_texts() -> None:
    (line,) = mistakes(lambda: load_job(None, ["data.template={pair}? {text}"]))
    assert line.endswith("has {pair}, but there is no second text; set data.pair_column")
    words = ["data.template=a {text}", "data.pair_column=b"]
    (line,) = mistakes(lambda: load_job(None, words))
    assert line.endswith("has no {pair}, the place of the second text")
    assert load_job(None, ["data.template={pair}? {text}", "data.pair_position=1"])
    for template, pairs in (("a {text}", True), ("{text} is {pair}", False)):
        (line,) = mistakes(partial(BatchTokenizer, tokenizer(), 40, pairs, None, template))
        assert line.startswith(f"data.template = '{template}': has ") and "second text" in line


def test_a_template_of_several_lines_is_read_as_written(tmp_path: Path) -> None:
    """From a file and from the command line; not a control character."""
    job = tmp_path / "job.toml"
    job.write_text('[data]\ntemplate = """\nReview: {text}\n\tIs it {{good}}?\n"""\n')
    template = load_job(str(job), []).data.template
    assert template == "Review: {text}\n\tIs it {{good}}?\n"
    assert parse_template(template) == (("Review: ", "\n\tIs it {good}?\n"), ("text",))
    assert load_job(None, [r'data.template="a\n{text}"']).data.template == "a\n{text}"
    assert load_job(str(job), ["data.template=none"]).data.template is None
    (line,) = mistakes(lambda: load_job(None, [r'data.template="{text}\u0007"']))
    assert line.endswith("expected text, e.g. data.template=Review: {text}")
    kept = data_of_fold(data("x", template=template), "y", ["bad", "good"])
    assert kept.template == template


# its tokens


TRAINED_ON = [
    "Review: the film was good.\nLabel:", "a  film , very dull!!\n\nso bad.",
    'naïve café 😀 日本語 "quoted" text', "Premise: x\nHypothesis: y\n",
] * 20  # fmt: skip
# Punctuation takes the line breaks after it.
QWEN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def trained(kind: str) -> PreTrainedTokenizerBase:
    """A small tokenizer that merges over the ends of a text: `gpt2`, `qwen`; `llama`: unigrams."""
    special = ["<s>", "<|end|>", "<unk>"]
    if kind == "llama":
        one = Tokenizer(models.Unigram())
        one.pre_tokenizer, one.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer: Any = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        one.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    else:
        one = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(QWEN), "isolated")
        own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
        parts = [own] if kind == "gpt2" else [split, own]
        one.pre_tokenizer, one.decoder = pre_tokenizers.Sequence(parts), decoders.ByteLevel()
        one.post_processor = processors.ByteLevel(trim_offsets=kind == "gpt2")
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=special, initial_alphabet=letters, show_progress=False
        )
    one.train_from_iterator(TRAINED_ON, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=one, eos_token="<|end|>", unk_token=None if kind != "llama" else "<unk>"
    )


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    kinds = ("gpt2", "qwen", "llama")
    return {"bert": tokenizer(), **{kind: trained(kind) for kind in kinds}}


PIECES = (
    "good", "the film", ".", "!!\n", "\n", " ", "  ", "é", "😀", "日本", '"quoted"', "{text}",
    "Label:", "\t", "a", "{{", "}",
)  # fmt: skip
TEMPLATES = (
    "Review: {text}\nLabel:", "{text}", '"{text}"', "{text}\n\n", "Review:{text}Label",
    "Review:  {text}  so", "日{text}本", "<|end|>[SEP]{text}<|end|>[SEP]\n", "😀 {text} 😀",
)  # fmt: skip


def filled(template: str, text: str) -> str:
    before, after = template.split("{text}")
    return before + text + after


def in_order(some: Sequence[Any], whole: Sequence[Any]) -> bool:
    rest = iter(whole)
    return all(one in rest for one in some)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "qwen", "llama"])
def test_only_the_text_is_cut(kind: str, tokenizers: dict[str, Any]) -> None:
    """Short: the tokens of the filled template. Long: the template, and a part of the text."""
    own, rng = tokenizers[kind], random.Random(1)
    for template in TEMPLATES:
        texts = ["".join(rng.choices(PIECES, k=rng.randint(1, 30))) for _ in range(40)]
        texts = [text for text in texts if text.strip()]
        whole = own([filled(template, text) for text in texts])["input_ids"]
        full = BatchTokenizer(own, 999, False, None, template)(texts, None)
        assert [one.ids for one in full] == whole
        for long in (CUT, HEAD_TAIL, WINDOWS):
            found = BatchTokenizer(own, 32, False, LongTexts(long), template)(texts, None)
            for one, everything in zip(found, full, strict=True):
                check_long(one, everything, long)
                for ids in windows_of(one.ids, one) if kind in ("gpt2", "qwen") else ():
                    for literal in template.split("{text}"):
                        assert literal.strip() in own.decode(ids)


def windows_of(values: Sequence[Any], one: Windows) -> list[Sequence[Any]]:
    return [values[start:stop] for start, stop in pairwise(np.cumsum([0, *one.lengths]))]


def check_long(one: Windows, full: Windows, long: str) -> None:
    """Each window has the template's tokens; together they read what `data.long` says."""
    assert one.long == (len(full.ids) > 32) and max(one.lengths) <= 32
    if not one.long:
        assert one.ids == full.ids
        return
    assert one.truncated == (long != WINDOWS)
    assert all(in_order(ids, full.ids) for ids in windows_of(one.ids, one))
    for sides in windows_of(one.sequence_ids, one):
        assert sides.count(None) == full.sequence_ids.count(None)
    of_text, read = (
        [i for i, side in zip(some.ids, some.sequence_ids, strict=True) if side == 0]
        for some in (full, one)
    )
    assert set(read) == set(of_text) if long == WINDOWS else in_order(read, of_text)
    assert read[0] == of_text[0] and (read[-1] == of_text[-1] or long == CUT)


def test_the_template_stands_around_each_part() -> None:
    """Cut at the end or, as its tokenizer says, at the beginning; and in windows."""
    before, after = "the plot was", ", very not"
    template, words = f"{before} {{text}} {after}", ["good", "bad", "film", "dull", "a", "good"]
    for side, expected in (("right", words[:3]), ("left", words[-3:])):
        own = tokenizer(truncation_side=side)
        (one,) = BatchTokenizer(own, 11, False, None, template)([" ".join(words)], None)
        assert one.ids == own(f"{before} {' '.join(expected)} {after}")["input_ids"]
        assert (one.lengths, one.long, one.truncated) == ([11], True, True)
    encode = BatchTokenizer(own, 11, False, LongTexts(WINDOWS, 1), template)
    (one,) = encode([" ".join(words)], None)
    parts = words[:3], words[2:5], words[4:]
    expected = [own(f"{before} {' '.join(part)} {after}")["input_ids"] for part in parts]
    assert one.ids == [i for part in expected for i in part]
    assert one.lengths == [11, 11, 10] and not one.truncated


@pytest.mark.parametrize(("first", "second"), [(20, 3), (3, 20), (20, 30), (9, 9), (6, 4), (5, 7)])
def test_a_pair_is_one_text_of_which_the_longer_part_is_cut_first(first: int, second: int) -> None:
    """What the tokenizer itself keeps of two texts with as much room; `{pair}` may be first."""
    own, words = tokenizer(), ["good", "bad", "film", "a", "plot", "dull"]
    one, two = (" ".join(words[i % 6] for i in range(n)) for n in (first, second))
    kept = own(one, two, max_length=12, truncation=True)
    sides = kept.sequence_ids()
    texts = [[i for i, s in zip(kept["input_ids"], sides, strict=True) if s == k] for k in (0, 1)]
    was, very = own("was", add_special_tokens=False)["input_ids"], own("very")["input_ids"][1:-1]
    encode = BatchTokenizer(own, 2 + 2 + 9, True, None, "was {pair} very {text}")
    (found,) = encode([one], [two])
    assert found.ids == [2, *was, *texts[1], *very, *texts[0], 3]
    assert "types" not in encode.streams and set(found.type_ids) == {0}
    assert [*map({None: "-", 0: "a", 1: "b"}.get, found.sequence_ids)] == [
        *"--", *"b" * len(texts[1]), "-", *"a" * len(texts[0]), "-",
    ]  # fmt: skip
    windows = BatchTokenizer(own, 13, True, LongTexts(WINDOWS), "was {pair} very {text}")
    (parted,) = windows([one], [two])
    assert parted.ids[: parted.lengths[0]] == found.ids


def find_empty(encode: BatchTokenizer, texts: list[str], pairs: list[str] | None) -> list[bool]:
    encoded = encode(texts, pairs)
    ids, lengths = flat_ids(encoded, np.int64)
    return encode.content.find_empty(encoded, ids, lengths).tolist()


@pytest.mark.parametrize("kind", ["bert", "gpt2", "qwen", "llama"])
def test_an_empty_text_in_a_template_is_empty(kind: str, tokenizers: dict[str, Any]) -> None:
    own = tokenizers[kind]
    end = "[SEP]" if kind == "bert" else "<|end|>"
    for template in TEMPLATES:
        encode = BatchTokenizer(own, 40, False, None, template)
        texts = ["good", "", end, f"{end}a", "!", "."]
        assert find_empty(encode, texts, None) == [False, True, True, False, False, False]
    encode = BatchTokenizer(own, 60, True, None, "Premise: {text}\nHypothesis: {pair}\n")
    pairs = ["", "good", end, "a", "!", "."]
    assert find_empty(encode, texts, pairs) == [True, True, True, False, False, False]


def test_unknown_words_are_counted_inside_of_the_template(tmp_path: Path) -> None:
    """Another template is another store. What is longer is counted with the template."""
    texts = ["good film", "日本", "good " * 9, "bad"]
    columns = {"text": texts, "label": [0, 1, 0, 1]}
    path = folder(tmp_path / "x", train=columns, test={"text": texts[:2], "label": [0, 1]})
    found = {}
    for template in (None, "a {text}", "the {text}", "a {text}"):
        section = data(path, template=template)
        one = open_token_store(section, 1, tokenizer(), 8, tmp_path / "s", workers=World())
        found.setdefault(template, set()).add(one.folder)
        inside = ", data.template included," if template else ""
        assert f"(25.0%) have more than 8 tokens{inside} and are truncated" in one.warnings[-3]
        assert [line.partition(" (")[0] for line in one.warnings[-3:]] == [
            "train: 1 of 4 texts", "train: 1 of 4 texts", "test: 1 of 2 texts",
        ]  # fmt: skip
        assert all("words that the tokenizer does not know" in x for x in one.warnings[-2:])
        assert one.meta.get("template") == template
    assert [len(folders) for folders in found.values()] == [1, 1, 1]
    assert len(set.union(*found.values())) == 3


def test_a_template_that_leaves_no_room_is_refused() -> None:
    one = "the plot was {text} , very not"
    for length, pairs, template in ((8, False, one), (9, True, f"{one} {{pair}}")):
        make = partial(BatchTokenizer, tokenizer(), length, pairs, None, template)
        line = f"data.max_length = {length}: 8 tokens of data.template fill that"
        assert mistakes(make) == [line]
    make = partial(BatchTokenizer, tokenizer(), 12, False, LongTexts(WINDOWS, 6), "a b {text} c d")
    (line,) = mistakes(make)
    assert line.startswith("data.window_overlap = 6: a window of 12 tokens holds ")


def test_a_tokenizer_that_does_not_place_its_tokens_is_refused() -> None:
    blind = SimpleNamespace(ids=[1, 2], type_ids=[0, 0], offsets=[(0, 0), (0, 0)])
    backend = SimpleNamespace(encode_batch=lambda texts: [blind for _ in texts])
    (line,) = mistakes(lambda: Template("a {text}", False).count_tokens(backend))
    assert line.startswith("model.name: its tokenizer does not tell which characters")


# from a run to its predictions


def paired_rows(n: int, seed: int) -> list[dict[str, object]]:
    other = fixtures.rows(n, longest=8, seed=seed + 50)
    rows = fixtures.rows(n, longest=20, seed=seed)
    return [{**row, "more": more["text"]} for row, more in zip(rows, other, strict=True)]


KINDS = {  # architecture, keys
    "pairs in windows": ("bert", [
        "data.long=windows", "data.max_length=16", "data.pair_column=more",
        'data.template="w80 {pair} w81\\nw82 {text} [SEP] w83"',
    ]),
    "last token": ("qwen3", ["data.max_length=20", "data.template=w80 {text} w81 w82"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("template")
    (top / "corpus").mkdir()
    for seed, (split, n) in enumerate({"train": 24, "validation": 6, "test": 30}.items()):
        fixtures.jsonl(top / "corpus" / f"{split}.jsonl", paired_rows(n, seed))
    with patch("distsent.reporting.plots.available", return_value=False):
        for name, (architecture, _) in KINDS.items():
            save = fixtures.model if architecture == "bert" else partial(
                architectures.save, architecture
            )  # fmt: skip
            save(top / architecture)
            TrainingRun(load_job(None, words(top, name)), World(), NoSignals()).train()
    return top


def words(top: Path, name: str) -> list[str]:
    architecture, keys = KINDS[name]
    return [
        f"data.source={top / 'corpus'}", f"model.name={top / architecture}", f"run.dir={top}",
        f"job.name={architecture}", "train.max_steps=4", "optim.lr=1e-2", "train.batch_size=8",
        "log.tensorboard=false", *keys,
    ]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_the_template_of_a_run_is_used_wherever_its_model_is(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, evaluated, predicted and exported: the same scores, from its folder alone."""
    architecture, keys = KINDS[name]
    run, has_pairs = runs / architecture, architecture == "bert"
    kept, template = read_run(run).predictions("test"), load_job(None, keys).data.template
    assert kept is not None and template is not None
    bare = Path(shutil.copytree(run / "model", tmp_path / "bare"))
    rows = paired_rows(30, 2)
    texts = [str(row["text"]) for row in rows]
    pairs = [str(row["more"]) for row in rows] if has_pairs else None
    predictor = Predictor(bare)
    assert np.abs(predictor.logits(texts, pairs) - kept.logits).max() < 1e-5
    assert predictor.long > 0
    file = fixtures.jsonl(tmp_path / "test.jsonl", rows)
    columns = ["data.pair_column=more"] if has_pairs else []
    assert evaluate.main([str(bare), f"data.source={file}", *columns]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["loss"] == pytest.approx(fixtures.result(run)["eval"]["test"]["loss"], rel=1e-6)
    assert evaluate.main([str(run), "data.template=none"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["loss"] != pytest.approx(found["loss"], rel=1e-6)

    assert predict.main([str(run), "--file", str(file)]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["text"] for answer in answers] == texts
    assert f"texts are put into data.template = {template!r}" in err
    scores = np.exp(kept.logits) / np.exp(kept.logits).sum(1, keepdims=True)
    assert np.abs(scores - [[*answer["scores"].values()] for answer in answers]).max() < 1e-5
    (line,) = mistakes(lambda: predict.main([str(run), "--file", str(file), "data.template=a"]))
    assert "data.template" in line

    classify = pipeline("text-classification", str(bare), top_k=None, device="cpu")
    short = [i for i in range(30) if len(f"{texts[i]} {(pairs or texts)[i]}".split()) < 8][:4]
    for i in short:
        (piped,) = classify([template.format(text=texts[i], pair=(pairs or texts)[i])])
        by_label = {one["label"]: one["score"] for one in piped}
        assert by_label == pytest.approx(answers[i]["scores"], abs=1e-5)
    assert short
    card = (run / "model" / "README.md").read_text()
    assert template.replace("\n", "\n    ") in card and f"template = {template!r}" in card
    assert ('format(pair="...", text="...")' if has_pairs else 'format(text="...")') in card
    (line,) = mistakes(
        lambda: TrainingRun(
            load_job(None, [*words(runs, name)[:-1], f"data.template=w1 {template}"]),
            World(), NoSignals(),
        ).train()
    )  # fmt: skip
    assert "different values of data.template" in line
    again = build_classifier(ModelSection(name=str(bare)), None, fixtures.LABELS, 1).model
    assert recorded(again.config, "x") is None
    if has_pairs:
        (line,) = mistakes(lambda: predict.main([str(bare), "w1"]))
        assert line == f"data.template = {template!r}: has {{pair}}, but there is no second text"


def test_an_export_fills_the_template_in(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install 'distsent[export]'")
    assert export.main([str(runs / "bert"), "--out", str(tmp_path / "onnx")]) == 0
    one, other = Predictor(runs / "bert"), Predictor(tmp_path / "onnx")
    texts = "w1 w2", " ".join(fixtures.WORDS[:30])
    pairs = "w3", "w4 w5"
    np.testing.assert_allclose(
        other.logits(texts, pairs), one.logits(texts, pairs), rtol=0, atol=1e-5
    )
    assert r"data.template = `'w80 {pair} w81\nw82 " in (tmp_path / "onnx/README.md").read_text()


def test_what_is_recorded_must_be_a_template(runs: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(runs / "qwen3" / "model", tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    for wrong in ("a", 3, ["{text}"], "{text"):
        (bare / "config.json").write_text(json.dumps({**config, "text_template": wrong}))
        (line,) = mistakes(lambda: Predictor(bare))
        assert line.startswith(f"model = '{bare}': text_template in its config.json is ")
