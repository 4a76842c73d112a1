"""data.long: what is read of long texts, and windows that are one example: one mean of logits."""

from __future__ import annotations

import copy
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distsent import evaluate, predict, prepare
from distsent.batching.batch_plan import BatchPlan, collate
from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.flops import FlopCounter
from distsent.batching.sampler import BatchSampler
from distsent.data.dataset import open_dataset
from distsent.data.tokens.batch_tokenizer import BatchTokenizer
from distsent.data.tokens.long_texts import CUT, HEAD_TAIL, WINDOWS, LongTexts, recorded
from distsent.data.tokens.store import Tokens, TokenStore, open_token_store
from distsent.data.tokens.tokenize import join_parts, write_part
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.predictor import Predictor
from distsent.job import load_job
from distsent.job.schema import ModelSection
from distsent.model.classifier import build_classifier
from distsent.model.packed_forward import PackedForward
from distsent.reporting.finished_run import read_run
from distsent.training.inputs import prepare_tokenizer
from distsent.training.session import TrainingRun
from tests import architectures, fixtures, tiny_models
from tests.dataset_files import data, folder, mistakes, own_cache, tokenizer  # noqa: F401
from tests.parallel.driver import NoSignals

pytestmark = pytest.mark.usefixtures("own_cache")
WORDS = ["good", "bad", "film", "very", "not", "the", "a", "plot", "was", "dull"]


def text(words: int) -> str:
    return " ".join(WORDS[i % len(WORDS)] for i in range(words))


def read(texts: list[str], length: int, long: LongTexts, pairs: list[str] | None = None) -> Any:
    encode = BatchTokenizer(tokenizer(), length, pairs is not None, long)
    return encode(texts, pairs)


def windows_of(one: Any) -> list[list[int]]:
    ends = np.cumsum(one.lengths)[:-1]
    return [part.tolist() for part in np.split(np.array(one.ids), ends)]


@given(words=st.integers(1, 60), length=st.integers(4, 20), overlap=st.integers(0, 30))
def test_windows_are_those_of_the_tokenizer(words: int, length: int, overlap: int) -> None:
    """transformers' `stride` is an overlap, too. Each window but the last is full."""
    overlap %= length - 2
    own = tokenizer()(
        text(words),
        max_length=length,
        truncation=True,
        stride=overlap,
        return_overflowing_tokens=True,
    )
    (one,) = read([text(words)], length, LongTexts(WINDOWS, overlap))
    found = windows_of(one)
    assert found == own["input_ids"]
    step = length - 2 - overlap
    assert len(found) == max(1, -(-(words - overlap) // step))
    assert (one.long, one.truncated) == (words > length - 2, False)


def test_head_and_tail_are_a_quarter_and_the_rest() -> None:
    short, long = read([text(6), text(30)], 10, LongTexts(HEAD_TAIL))
    cls, *words, sep = tokenizer()(text(30))["input_ids"]
    assert long.ids == [cls, *words[:2], *words[-6:], sep]
    assert (long.lengths, long.long, long.truncated) == ([10], True, True)
    assert (len(short.ids), short.long, short.truncated) == (8, False, False)


@pytest.mark.parametrize(("first", "second"), [(20, 3), (3, 20), (20, 30), (9, 9), (6, 4), (5, 7)])
def test_the_longer_text_of_a_pair_is_parted(first: int, second: int) -> None:
    """The first window is what the tokenizer keeps when it removes the longest first."""
    own, length = tokenizer(), 12
    options = {"max_length": length, "truncation": True}
    kept = own([text(first)], [text(second)], **options)
    (one,) = read([text(first)], length, LongTexts(WINDOWS), [text(second)])
    windows = windows_of(one)
    assert windows[0] == kept["input_ids"][0]
    assert one.type_ids[: one.lengths[0]] == kept["token_type_ids"][0]
    room = length - 3
    assert one.truncated == (min(first, second) > room // 2)
    assert one.long == (first + second > room)
    whole = own(text(first), text(second))
    sides = one.sequence_ids
    longer = int(first <= second)
    for side, words in enumerate((first, second)):
        read_of_it = [i for i, its in zip(one.ids, sides, strict=True) if its == side]
        expected = own(text(words))["input_ids"][1:-1]
        if side == longer:  # all of it, in order, if what overlaps is counted once
            assert read_of_it[: len(windows[0])] and set(read_of_it) == set(expected)
            assert read_of_it[-1] == expected[-1]
        else:
            each = min(words, room // 2) if one.long else words
            assert read_of_it == expected[:each] * len(windows)
    if not one.long:
        assert one.ids == whole["input_ids"]
    assert all(len(window) <= length for window in windows)
    (ends,) = read([text(first)], length, LongTexts(HEAD_TAIL), [text(second)])
    assert len(ends.ids) == min(length, len(whole["input_ids"]))


def test_an_overlap_that_leaves_nothing_new_is_refused() -> None:
    for pairs, least in ((False, 9), (True, 4)):
        line = (
            f"data.window_overlap = {least + 1}: a window of 12 tokens holds {least + 1} of "
            f"{'the longer text of a pair' if pairs else 'a text'}; set it to {least} or less"
        )
        BatchTokenizer(tokenizer(), 12, pairs, LongTexts(WINDOWS, least))
        wrong = LongTexts(WINDOWS, least + 1)
        make = partial(BatchTokenizer, tokenizer(), 12, pairs, wrong)
        assert mistakes(make) == [line]


def stored(path: Path, home: Path, long: str, parts: int = 1, **keys: Any) -> TokenStore:
    """The token store as this many processes write it."""
    dataset = open_dataset(data(path, long=long, **keys), 1)
    encode = BatchTokenizer(tokenizer(), 12, "pair_column" in keys, LongTexts(long))
    home.mkdir()
    for rank in range(parts):
        write_part(home, dataset, encode, rank, parts, lambda done, total: None)
    join_parts(home, dataset, encode, parts, dataset.find_warnings())
    return TokenStore.open(home)


@pytest.mark.parametrize("long", [CUT, HEAD_TAIL, WINDOWS])
def test_the_store_holds_what_is_read(tmp_path: Path, long: str) -> None:
    """Whatever the number of processes. Rows without a token of their text are left out."""
    texts = [text(n) for n in (3, 40, 1, 11, 25, 10)]
    rows = {"text": [*texts, "[SEP] [SEP]"], "label": [0, 1, 0, 1, 0, 1, 0]}
    path = folder(tmp_path / "x", train=rows, test={"text": texts[:2], "label": [0, 1]})
    one, three = (
        stored(path, tmp_path / str(parts), long, parts, drop_bad_rows=True) for parts in (1, 3)
    )
    assert {file.name: file.read_bytes() for file in one.folder.iterdir()} == {
        file.name: file.read_bytes() for file in three.folder.iterdir()
    }
    opened = open_token_store(
        data(path, long=long, drop_bad_rows=True), 1, tokenizer(), 12, tmp_path / "s",
        workers=World(),
    )  # fmt: skip
    assert opened.meta == one.meta
    tokens, expected = one.splits["train"], read(texts, 12, LongTexts(long))
    lengths = [len(row.ids) for row in expected]
    rows_in = np.arange(len(texts))
    assert [tokens[row].tolist() for row in rows_in] == [row.ids for row in expected]
    assert tokens.lengths().tolist() == tokens.lengths(rows_in).tolist() == lengths
    assert tokens.lengths(rows_in[:, None]).shape == (6, 1)
    each = [n for row in expected for n in row.lengths]
    assert tokens.window_lengths(rows_in).tolist() == each
    assert [span.stop - span.start for span in tokens.window_spans(rows_in)] == each
    sums = tokens.sum_windows(tokens.window_lengths(rows_in), rows_in[None])
    assert sums.tolist() == [lengths]
    some = np.array([4, 1])
    counts = [len(row.lengths) for row in expected]
    if long == WINDOWS:
        assert counts == [1, 5, 1, 2, 3, 1]
        assert tokens.counts(some).tolist() == [3, 5]
        found = [tokens.ids[span].tolist() for span in tokens.window_spans(some)]
        assert found == [*windows_of(expected[4]), *windows_of(expected[1])]
    else:
        assert tokens.counts(some) is None and set(counts) == {1}
    how = {
        CUT: "are truncated",
        HEAD_TAIL: "are read without their middle",
        WINDOWS: "are read in windows",
    }[long]
    train, test = (line for line in one.warnings if "12 tokens" in line)
    assert train == f"train: 3 of 6 texts (50.0%) have more than 12 tokens and {how}"
    assert test == f"test: 1 of 2 texts (50.0%) have more than 12 tokens and {how}"


def test_pairs_that_lose_a_part_are_counted(tmp_path: Path) -> None:
    columns = {"text": [text(20), text(20)], "more": [text(2), text(8)], "label": [0, 1]}
    path = folder(tmp_path / "x", train=columns, test=columns)
    store = stored(path, tmp_path / "s", WINDOWS, pair_column="more")
    assert store.warnings[-2:] == [
        "test: 2 of 2 texts (100.0%) have more than 12 tokens and are read in windows",
        "test: 1 of 2 texts (50.0%) are pairs of two long texts, of which the shorter one is "
        "truncated to half a window",
    ]


# one example


def alone(model: Any, tokens: Tokens, row: int) -> torch.Tensor:
    """The mean logits [1, C] of a row's windows, each of which runs through transformers alone."""
    rows = np.array([row])
    logits = []
    for span in tokens.window_spans(rows):
        ids = torch.from_numpy(tokens.ids[span].astype(np.int64))[None]
        logits.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    return torch.cat(logits).mean(0, keepdim=True)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_text_gets_the_mean_of_its_windows_alone(family: str) -> None:
    """Logits and gradients, in any batch."""
    tokens = tiny_models.windowed(12)
    model = tiny_models.encoder(family).double()
    packed = PackedForward(copy.deepcopy(model))
    rows = np.array([7, 0, 3, 11])
    assert sorted(tokens.counts(rows).tolist()) != [1, 1, 1, 1]
    batch = collate(tokens, rows, None, torch.device("cpu"))
    found, expected = packed(batch), torch.cat([alone(model, tokens, row) for row in rows])
    assert (found - expected).abs().max() < 1e-10
    with torch.no_grad():
        assert (packed(batch) - expected).abs().max() < 1e-10
    weights = torch.randn(found.shape, dtype=found.dtype)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    pairs = zip(packed.model.named_parameters(), model.parameters(), strict=True)
    for (name, ours), theirs in pairs:
        if theirs.grad is not None:
            assert (ours.grad - theirs.grad).abs().max() < 1e-10, name


def test_dropout_differs_between_windows_and_not_between_batches() -> None:
    """Two windows of the same tokens drop different ones; other texts change nothing."""
    tokens, step = tiny_models.windowed(12), 5
    model = tiny_models.encoder("bert", dropout=0.2).double().train()

    def logits(rows: list[int]) -> torch.Tensor:
        chosen = np.array(rows)
        keys = dropout_keys(7, step, chosen, tokens.lengths(chosen))
        return packed(collate(tokens, chosen, keys, torch.device("cpu")))

    packed = PackedForward(model)
    together, some = logits([*range(12)]), [9, 3, 0]
    assert torch.allclose(together[some], logits(some), atol=1e-12)
    keys = dropout_keys(7, step, np.arange(12), tokens.lengths())
    batch = collate(tokens, np.arange(12), keys, torch.device("cpu"))
    first = batch.keys_T[batch.cls_index_n]
    assert len(first.unique()) == len(first) == len(tokens.offsets) - 1 > 12


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_texts_windows_stay_together(size: int) -> None:
    """Each text is on one worker, in one micro-batch; a text above the budget is alone in its."""
    tokens, budget = tiny_models.windowed(40), 60
    flops = FlopCounter(per_token=5.0, per_pair=0.3)
    sampler, cpu = BatchSampler(40, 16, seed=3), torch.device("cpu")
    plans = [BatchPlan(tokens, sampler, flops, rank, size, budget, cpu) for rank in range(size)]
    for step in range(3):
        batches = [plan.batch(step) for plan in plans]
        found = []
        for batch in batches:
            for rows, packed in batch.micro_batches():
                assert packed.tokens == tokens.lengths(rows).sum()
                assert packed.tokens <= budget or len(rows) == 1
                assert packed.windows_n.tolist() == tokens.counts(rows).tolist()
                assert packed.labels_n.tolist() == tokens.labels[rows].tolist()
                found += rows.tolist()
        assert sorted(found) == sorted(sampler.batch(step).tolist())
        windows = tokens.window_lengths(sampler.batch(step))
        assert batches[0].window_lengths.tolist() == windows.tolist()
        assert batches[0].lengths.sum() == windows.sum()


# from a run to its predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose texts have one to four windows."""
    top = tmp_path_factory.mktemp("run")
    words = [
        f"data.source={fixtures.corpus(top / 'corpus')}",
        f"model.name={fixtures.model(top / 'encoder')}",
        f"run.dir={top}", "job.name=run", "data.max_length=12", "data.long=windows",
        "data.window_overlap=3", "train.max_steps=6", "optim.lr=1e-2", "log.tensorboard=false",
        "eval.batch_tokens=40", "train.token_budget=45",
    ]  # fmt: skip
    with patch("distsent.reporting.plots.available", return_value=False):
        TrainingRun(load_job(None, words), World(), NoSignals()).train()
    return top / "run"


def test_texts_of_more_tokens_than_a_batch_are_named_with_what_to_do(run: Path) -> None:
    log = (run / "train.log").read_text()
    for name, seed, rows, key in (
        ("train", 0, 45, "train.token_budget = 45"), ("test", 2, 82, "eval.batch_tokens = 40"),
    ):  # fmt: skip
        texts = [str(row["text"]) for row in fixtures.rows(rows, seed=seed)]
        words = [len(one.split()) for one in texts]
        windows = [max(1, -(-(n - 3) // 7)) for n in words]  # of 10 words, 3 of them shared
        tokens = [n + 2 * m + 3 * (m - 1) for n, m in zip(words, windows, strict=True)]
        count = sum(n > int(key.split()[-1]) for n in tokens)
        line = f"{name}: {count} of {rows} texts ({count / rows:.1%}) have more tokens in their "
        assert f"{line}windows than {key}, up to {max(tokens)}: each is a batch of its own" in log


def test_predict_and_evaluate_read_texts_as_training_did(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the model folder alone. A model that is trained from it reads as its own job says."""
    kept = read_run(run).predictions("test")
    assert kept is not None
    bare = Path(shutil.copytree(run / "model", tmp_path / "bare"))
    predictor = Predictor(bare)
    rows = fixtures.rows(82, seed=2)
    logits = predictor.logits([str(row["text"]) for row in rows])
    assert np.abs(logits - kept.logits).max() < 1e-5
    assert predictor.long == sum(len(str(row["text"]).split()) > 10 for row in rows) > 0
    file = fixtures.jsonl(tmp_path / "test.jsonl", rows)
    scores = {}
    for keys in ([], ["data.long=cut"]):
        assert evaluate.main([str(bare), f"data.source={file}", *keys]) == 0
        out, err = capsys.readouterr()
        scores[len(keys)] = json.loads(out)
        assert ("are truncated" if keys else "are read in windows") in err
    final = fixtures.result(run)["eval"]["test"]
    assert scores[0]["loss"] == pytest.approx(final["loss"], rel=1e-6)
    assert (scores[0]["n"], scores[0]["confusion"]) == (82, final["confusion"])
    assert scores[1]["loss"] != pytest.approx(final["loss"], rel=1e-5)
    assert predict.main([str(bare), *map(str, fixtures.WORDS[:20])]) == 0
    assert "truncated" not in capsys.readouterr().err
    long = " ".join(fixtures.WORDS[:20])
    assert predict.main([str(bare), long]) == 0
    line = "distsent: 1 of 1 texts have more than 12 tokens and are read in windows\n"
    assert capsys.readouterr().err == line
    card = (run / "model" / "README.md").read_text()
    assert "read in overlapping windows" in card and "A pipeline reads only the first 12" in card
    again = build_classifier(ModelSection(name=str(bare)), None, fixtures.LABELS, 1).model
    assert recorded(again.config, "x") == LongTexts()


def test_what_is_recorded_must_be_known(run: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(run / "model", tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    for wrong in ({"long": "window"}, {"overlap": 3}, {"long": "windows", "window_overlap": -1}):
        (bare / "config.json").write_text(json.dumps({**config, "long_texts": wrong}))
        (line,) = mistakes(lambda: Predictor(bare))
        assert line.startswith(f"model = '{bare}': long_texts in its config.json is {{")


def test_an_encoder_that_cannot_pack_is_refused_before_the_dataset_is_read(tmp_path: Path) -> None:
    encoder = architectures.save("deberta", tmp_path / "encoder")
    words = [f"model.name={encoder}", "data.source=./nowhere-yet", "data.long=windows"]
    (tmp_path / "nowhere-yet").mkdir()
    words[1] = f"data.source={tmp_path / 'nowhere-yet'}"
    line = (
        'data.long = "windows": DebertaForSequenceClassification cannot run packed, as windows '
        'must; set data.long to "cut" or "head_tail"'
    )
    assert mistakes(lambda: prepare_tokenizer(load_job(None, words))) == [line]
    with pytest.raises(UserError) as caught:
        prepare.main([*words, f"data.store={tmp_path / 'store'}"])
    assert (caught.value.lines, caught.value.code) == ((line,), 2)


@pytest.mark.parametrize(("words", "line"), [
    (["data.window_overlap=8"],
     'data.window_overlap = 8: applies only to data.long = "windows"'),
    (["data.long=windows", "data.window_overlap=64"],
     "data.window_overlap = 64: must be less than a window: data.max_length = 64"),
    (["data.long=windows", "model.packed=never"],
     'model.packed = "never": data.long = "windows" needs packed batches; set model.packed to '
     '"auto"'),
    (["data.long=window"],
     'data.long = "window": expected "cut" or "head_tail" or "windows", e.g. data.long=cut'),
    (["data.doc_stride=8"], "data.doc_stride: unknown key; did you mean data.window_overlap?"),
])  # fmt: skip
def test_keys_that_do_not_fit_are_one_line(words: list[str], line: str) -> None:
    assert mistakes(lambda: load_job(None, words)) == [f"command line: {line}"]
