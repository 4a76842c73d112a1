"""Jobs: which load, and the error lines of those that do not."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.errors import UserError
from distsent.formats.options import FileOptions
from distsent.job import Job, ignored, load_job, load_job_to_train, load_saved_job, reference, rules
from distsent.job.schema import KEYS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Run each test in an empty folder: paths in a job are relative to the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def mistakes(text: str | bytes | None, *overrides: str) -> list[str]:
    """The error lines for a job file of this text under these overrides."""
    if text is not None:
        Path("job.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_job("job.toml" if text is not None else None, overrides)
    assert str(caught.value) == "\n".join(caught.value.lines)
    assert all("\n" not in line for line in caught.value.lines)
    return list(caught.value.lines)


# What loads


def test_no_file_is_the_demo_job():
    assert load_job(None) == Job()


def test_file_then_command_line():
    Path("job.toml").write_text("[train]\nepochs = 2\nbatch_size = 16\n[optim]\nlr = 2e-5\n")
    job = load_job("job.toml", ["train.batch_size=32", "job.name=try-1"])
    assert (job.train.epochs, job.train.batch_size, job.optim.lr, job.job.name) == (
        2.0,
        32,
        2e-5,
        "try-1",
    )


@pytest.mark.parametrize(("override", "dotted", "value"), [
    ("train.epochs=3", "train.epochs", 3.0),
    ("train.epochs = 0.5", "train.epochs", 0.5),
    ("job.name=it", "job.name", "it"),
    # A key that expects text takes it as written, whatever TOML would read.
    *((f"job.name={name}", "job.name", name)
      for name in ("2024-11-25", "1e5", "true", "007", "0x10", "1_000", "none", "inf")),
    ("run.dir=07:30:00", "run.dir", "07:30:00"),
    ("data.label_column=5", "data.label_column", "5"),
    ("data.label_column=5 # id", "data.label_column", "5 # id"),
    ("data.labels=[0,1]", "data.labels", ("0", "1")),
    ("data.labels=[1e5, 2024-11-25,true, none,]", "data.labels",
     ("1e5", "2024-11-25", "true", "none")),
    ("""data.labels=["a, b", 'c', it's, C#]""", "data.labels", ("a, b", "c", "it's", "C#")),
    ("data.labels=none", "data.labels", None),
    ("data.labels={0=1, 1=no}", "data.labels", {"0": "1", "1": "no"}),
    ('data.labels={0="a, b", "1"=c}', "data.labels", {"0": "a, b", "1": "c"}),
    ("data.train=[2024-11-25,b.csv]", "data.train", ("2024-11-25", "b.csv")),
    ("data.delimiter=5", "data.delimiter", "5"),
    ("data.encoding=437", "data.encoding", "437"),
    ("data.delimiter= ", "data.delimiter", " "),
    ("data.delimiter=\t", "data.delimiter", "\t"),
    ("data.delimiter=, ", "data.delimiter", ", "),
    ("data.delimiter = ;", "data.delimiter", ";"),
    ("data.delimiter= auto", "data.delimiter", "auto"),
    ("data.escapechar= none", "data.escapechar", None),
    ('job.name="it"', "job.name", "it"),
    ("train.seed=[1, 2]", "train.seed", (1, 2)),
    ("data.labels=[bad,so so]", "data.labels", ("bad", "so so")),
    ("train.class_weights=[1,2.5]", "train.class_weights", (1.0, 2.5)),
    ("train.class_weights=none", "train.class_weights", "none"),
    ("adapter.kind=none", "adapter.kind", "none"),
    ("data.max_rows=none", "data.max_rows", None),
    ("data.max_rows=None", "data.max_rows", None),
    ("eval.every=end", "eval.every", "end"),
    ("eval.every=50", "eval.every", 50),
    ("data.pool_splits=false", "data.pool_splits", False),
    ("data.text_column=a=b", "data.text_column", "a=b"),
    ("data.text_column=a # b", "data.text_column", "a # b"),
    ("data.text_column=a\nb.c=3", None, None),
])  # fmt: skip
def test_override_values(override, dotted, value):
    if dotted is None:
        assert len(mistakes(None, override)) == 1
    else:
        assert dict(load_job(None, ["data.source=.", override]).items())[dotted] == value


def test_a_column_that_is_named_later_replaces_an_earlier_position():
    Path("job.toml").write_text("[data]\nsource = '.'\ntext_position = 3\npair_position = 1\n")
    job = load_job("job.toml", ["data.text_column=text", "data.pair_column=none"])
    assert (job.data.text_position, job.data.pair_position) == (None, None)
    job = load_job("job.toml", ["data.label_column=stars"])
    assert (job.data.text_position, job.data.label_column) == (3, "stars")
    later = load_saved_job(job.to_dict(), "job.json", ["data.text_column=review"])
    assert (later.data.text_column, later.data.text_position) == ("review", None)
    again = load_saved_job(later.to_dict(), "job.json", ["data.text_position=0"])
    assert (again.data.text_position, again.data.pair_position) == (0, 1)
    assert load_saved_job(again.to_dict(), "job.json") == again, "trained before both were refused"
    with pytest.raises(UserError, match="leave one of them out"):
        load_saved_job({"data": {}}, "job.json", ["data.text_column=a", "data.text_position=0"])


def test_keys_of_files_are_refused_where_the_command_has_them():
    """A run on files may be evaluated on the hub: what its files were like stays unsaid."""
    files = load_job(None, ["data.source=.", "data.delimiter=;"]).to_dict()
    assert load_saved_job(files, "job.json", ["data.source=imdb"]).data.delimiter == ";"
    with pytest.raises(UserError, match='"imdb" is none here, so it is a dataset of the hub'):
        load_saved_job(files, "job.json", ["data.source=imdb", "data.header=true"])
    assert load_job(None, ["data.train=a.csv", "data.delimiter=;"]).data.delimiter == ";"
    own = {f"data.{key.name}" for key in fields(FileOptions)}
    assert {*ignored.OF_FILES} == {*own, "data.split_column"}


def test_none_clears_what_the_file_set():
    Path("job.toml").write_text("[data]\nmax_rows = 100\n")
    assert load_job("job.toml", ["data.max_rows=none"]).data.max_rows is None


def test_a_pretrained_model_gets_its_own_rate_and_length_unless_they_are_written():
    named = load_job(None, ["model.name=bert-base-uncased"])
    assert (named.optim.lr, named.data.max_length) == (2e-5, 512)
    written = load_job(
        None, ["model.name=bert-base-uncased", "optim.lr=1e-3", "data.max_length=64"]
    )
    assert (written.optim.lr, written.data.max_length) == (1e-3, 64)


def test_a_path_that_might_be_a_hub_id_is_told_apart(tmp_path):
    for name in ("team/reviews.csv", "team/encoder", "imdb", "demo"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch() if path.suffix else path.mkdir()
    job = load_job(None, ["data.source=team/reviews.csv", "model.name=team/encoder"])
    assert (job.data.source, job.model.name) == ("./team/reviews.csv", "./team/encoder")
    assert load_job(None, ["data.source=team/other"]).data.source == "team/other"
    assert rules.NAMES["data.source"] == ("demo", "imdb", "emotion", "tweets")
    assert (load_job(None, ["data.source=imdb"]).data.source, load_job(None).model.name) == (
        "imdb",
        "demo",
    )  # words that are known


def test_home_is_spelt_out(tmp_path):
    (tmp_path / "home" / "reviews").mkdir(parents=True)
    job = load_job(None, ["data.source=~/reviews", "run.dir=~/runs"])
    assert (job.data.source, job.run.dir) == (f"{tmp_path}/home/reviews", f"{tmp_path}/home/runs")


def test_a_byte_order_mark_is_no_mistake():
    Path("job.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nepochs = 2\r\n")
    assert load_job("job.toml").train.epochs == 2


def test_seeds():
    job = load_job(None, ["train.seed=[3, 5]"])
    assert job.seeds == (3, 5)
    assert [(one.job.name, one.train.seed) for one in map(job.for_seed, job.seeds)] == [
        ("demo-seed3", 3), ("demo-seed5", 5)]  # fmt: skip
    assert Job().seeds == (42,)
    assert Job().for_seed(42) == Job()
    assert load_job(None, ["train.seed=[42]"]).for_seed(42) == Job()


def test_changed_names_the_keys_that_differ():
    assert Job().changed_keys(Job()) == []
    assert Job().changed_keys(load_job(None, ["optim.lr=2e-5", "eval.every=5"])) == [
        "optim.lr",
        "eval.every",
    ]


def test_dict_goes_through_json_and_back():
    job = load_job(
        None,
        [
            "train.seed=[1, 2]",
            "data.labels=[a, b]",
            "train.class_weights=[1, 2]",
            "model.name=bert",
        ],
    )
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


def test_dict_from_elsewhere_is_checked():
    with pytest.raises(UserError) as caught:
        Job.from_dict({"optim": {"lr": -1, "momentum": 0.9}}, "runs/demo/job.json")
    assert caught.value.lines == (
        "runs/demo/job.json: optim.lr = -1: expected a number > 0, e.g. lr = 0.001",
        "runs/demo/job.json: optim.momentum: unknown key; "
        "[optim] has name, lr, betas, eps, weight_decay, clip_norm, schedule, warmup",
    )


def test_toml_writes_unset_keys_as_comments():
    lines = Job().to_toml().splitlines()
    assert lines[:3] == ["[job]", 'name = "demo"', ""]
    assert "# max_rows = (all)" in lines


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda text: text.strip() and text.lower() not in ("none", "null"))  # fmt: skip
POSITIVE = st.floats(min_value=1e-300, max_value=1e300)
SEEDS = st.integers(0, 2**32 - 1)


@given(
    st.fixed_dictionaries({}, optional={
        "data": st.fixed_dictionaries({}, optional={
            "text_column": TEXTS.map("t{}".format), "label_column": TEXTS.map("l{}".format),
            "labels": st.lists(TEXTS, min_size=2, unique=True), "max_rows": st.integers(1),
            "pool_splits": st.just(False), "test_fraction": st.floats(0, 1, exclude_max=True)}),
        "train": st.fixed_dictionaries({}, optional={
            "seed": SEEDS | st.lists(SEEDS, min_size=1, unique=True),
            "epochs": POSITIVE, "skip_nonfinite": st.integers(0)}),
        "optim": st.fixed_dictionaries({}, optional={
            "lr": POSITIVE,
            "betas": st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2).map(list)}),
    })
)  # fmt: skip
def test_toml_and_dict_hold_the_whole_job(tmp_path_factory, tree):
    job = Job.from_dict(tree)
    file = tmp_path_factory.getbasetemp() / "round.toml"
    file.write_text(job.to_toml(), encoding="utf-8")
    assert load_job(file) == job
    assert Job.from_dict(job.to_dict()) == job


# What does not load: (job file, overrides, error line)

USAGE_ERROR = [
    # names
    ("[optim]\nlrr = 1", (), "job.toml: optim.lrr: unknown key; did you mean optim.lr?"),
    (None, ("optim.lrr=1",), "command line: optim.lrr: unknown key; did you mean optim.lr?"),
    ("[train]\nlr = 1", (), "job.toml: train.lr: unknown key; did you mean optim.lr?"),
    ("[train]\ndropout = 0", (), "job.toml: train.dropout: unknown key; "
                                 "did you mean model.dropout or adapter.dropout?"),
    ("[train]\nlearning_rate = 1", (), "job.toml: train.learning_rate: unknown key; did you mean "
                                       "optim.lr?"),
    ("[train]\nwarmup_steps = 1", (), "job.toml: train.warmup_steps: unknown key; did you mean "
                                      "optim.warmup?"),
    ("[log]\nfoo = 1", (), "job.toml: log.foo: unknown key; [log] has every, tensorboard, "
                           "trackers"),
    (None, ("log.trackers=[mlflov]",), 'command line: log.trackers = ["mlflov"]: expected a list '
                                       'of "mlflow" or "wandb" or "trackio", '
                                       "e.g. log.trackers=[mlflow]"),
    ('[log]\ntrackers = "wandb"', (), 'job.toml: log.trackers = "wandb": expected a list of '
                                      '"mlflow" or "wandb" or "trackio", '
                                      'e.g. trackers = ["mlflow"]'),
    ("[trian]\nepochs = 1\nseed = 2", (), "job.toml: [trian]: unknown section; did you mean "
                                          "[train]?"),
    ("[wandb]", (), "job.toml: [wandb]: unknown section; "
                    "sections are job, run, data, model, adapter, train, optim, eval, checkpoint, "
                    "log"),
    ("lr = 1", (), "job.toml: lr: key without a section; did you mean optim.lr?"),
    ("learning_rate = 1", (), "job.toml: learning_rate: key without a section; did you mean "
                              "optim.lr?"),
    ("train = 1", (), "job.toml: train = 1: train is a section; set one of its keys, e.g. "
                      "train.batch_size"),
    ("[[train]]\nepochs = 1", (), "job.toml: train = [{ epochs = 1 }]: train is a section; "
                                  "set one of its keys, e.g. train.batch_size"),
    (None, ("optmi.lrr=1",), "command line: optmi.lrr: unknown section; did you mean optim.lr?"),
    (None, ("train.optim.lr=1",), "command line: train.optim.lr: unknown section; did you mean "
                                  "optim.lr?"),
    # types
    ('[optim]\nlr = "2e-5"', (), 'job.toml: optim.lr = "2e-5": expected a number > 0, without the '
                                 'quotes: lr = 2e-5'),
    ('[data]\npool_splits = "true"', (), 'job.toml: data.pool_splits = "true": expected true or '
                                         'false, '
                                         "without the quotes: pool_splits = true"),
    ("[train]\nbatch_size = 32.0", (), "job.toml: train.batch_size = 32.0: expected an integer >= "
                                       "1, "
                                       "e.g. batch_size = 64"),
    ("[train]\nbatch_size = true", (), "job.toml: train.batch_size = true: expected an integer >= "
                                       "1, "
                                       "e.g. batch_size = 64"),
    ("[train]\nepochs = true", (), "job.toml: train.epochs = true: expected a number > 0, e.g. "
                                   "epochs = 5.0"),
    ("[data]\nsource = 3", (), "job.toml: data.source = 3: expected text, in quotes, e.g. "
                               'source = "demo"'),
    ('[data]\nsource = ""', (), 'job.toml: data.source = "": expected text, e.g. source = "demo"'),
    ("[data]\nsource = 2024-01-01", (), "job.toml: data.source = 2024-01-01: expected text, in "
                                        'quotes, e.g. source = "demo"'),
    ('[data]\ntext_column = "a\\nb"', (), 'job.toml: data.text_column = "a\\nb": expected text, '
                                          'e.g. text_column = "text"'),
    ("[optim.lr]\nmax = 1", (), "job.toml: optim.lr = { max = 1 }: expected a number > 0, e.g. lr "
                                "= 0.001"),
    (None, ("train.batch_size=16x",), 'command line: train.batch_size = "16x": expected an integer '
                                      '>= 1, '
                                      "e.g. train.batch_size=64"),
    (None, ("train.batch_size=",), 'command line: train.batch_size = "": expected an integer >= 1, '
                                   "e.g. train.batch_size=64"),
    (None, ("log.tensorboard=True",), 'command line: log.tensorboard = "True": expected true or '
                                      'false, '
                                      "e.g. log.tensorboard=true"),
    (None, ("optim.betas=0.9",), "command line: optim.betas = 0.9: expected a list of two numbers "
                                 ">= 0 and < 1, "
                                 "e.g. optim.betas=[0.9,0.999]"),
    (None, ("data.labels=[pos]",), 'command line: data.labels = ["pos"]: expected a list of two or '
                                   'more distinct class names, or a table from values to distinct '
                                   'names or numbers, or a file of class names, '
                                   "e.g. data.labels=[negative,positive]"),
    # ranges
    (None, ("train.epochs=0",), "command line: train.epochs = 0: expected a number > 0, e.g. "
                                "train.epochs=5.0"),
    (None, ("train.epochs=none",), 'command line: train.epochs = "none": expected a number > 0, '
                                   "e.g. train.epochs=5.0"),
    (None, ("optim.lr=nan",), "command line: optim.lr = nan: expected a number > 0, e.g. "
                              "optim.lr=0.001"),
    (None, ("optim.lr=inf",), "command line: optim.lr = inf: expected a number > 0, e.g. "
                              "optim.lr=0.001"),
    (None, ("optim.lr=1" + 400 * "0",), f"command line: optim.lr = 1{96 * '0'}...: expected a "
                                        "number > 0, "
                                        "e.g. optim.lr=0.001"),
    (None, ("optim.betas=[0.9,1.0]",), "command line: optim.betas = [0.9, 1.0]: expected a list of "
                                       "two numbers "
                                       ">= 0 and < 1, e.g. optim.betas=[0.9,0.999]"),
    (None, ("optim.name=sgd",), 'command line: optim.name = "sgd": expected "adam" or "adamw", '
                                'e.g. optim.name=adamw'),
    ('[train]\nprecision = "fp32"', (), 'job.toml: train.precision = "fp32": expected "float32" or '
                                        '"bf16" or "fp16" '
                                        'or "auto", e.g. precision = "float32"'),
    (None, ("checkpoint.keep=0",), "command line: checkpoint.keep = 0: expected an integer >= 1, "
                                   "e.g. checkpoint.keep=2"),
    (None, ("train.max_steps=0",), "command line: train.max_steps = 0: expected an integer >= 1, "
                                   "e.g. train.max_steps=1000"),
    (None, ("adapter.bits=8",), "command line: adapter.bits = 8: expected 4 or 16, "
                                "e.g. adapter.bits=4"),
    (None, ("eval.every=often",), 'command line: eval.every = "often": expected "epoch" or "end", '
                                  "or an integer >= 1, e.g. eval.every=epoch"),
    (None, ("eval.every=0",), 'command line: eval.every = 0: expected "epoch" or "end", '
                              "or an integer >= 1, e.g. eval.every=epoch"),
    (None, ("train.seed=[1,2,1]",), "command line: train.seed = [1, 2, 1]: expected an integer >= "
                                    "0 and <= 4294967295, or a list of distinct ones, "
                                    "e.g. train.seed=42"),
    (None, ("job.name=a/b",), 'command line: job.name = "a/b": expected a name of letters, digits, '
                              '. _ and -, '
                              "e.g. job.name=demo"),
    (None, ("job.name=..",), 'command line: job.name = "..": expected a name of letters, digits, . '
                             '_ and -, '
                             "e.g. job.name=demo"),
    # contradictions
    (None, ("adapter.bits=4",), 'command line: adapter.bits = 4: applies only to adapter.kind = '
                                '"lora"'),
    (None, ("adapter.targets=[query]",), 'command line: adapter.targets = ["query"]: applies only '
                                         'to '
                                         'adapter.kind = "lora"'),
    ("[adapter]\nrank = 64", (), 'job.toml: adapter.rank = 64: applies only to adapter.kind = '
                                 '"lora"'),
    ("[data]\nvalidation_fraction = 0.7", ("data.test_fraction=0.3",),
     "job.toml: data.validation_fraction = 0.7: data.validation_fraction + data.test_fraction must "
     "be "
     "less than 1, to leave rows for training"),
    (None, ("data.pool_splits=true",), "command line: data.pool_splits = true: needs "
                                       "data.test_fraction or "
                                       "data.validation_fraction to split the pooled rows, "
                                       "e.g. test_fraction = 0.2"),
    (None, ("train.token_budget=32",), "command line: train.token_budget = 32: train.token_budget "
                                       "must fit one "
                                       "example of data.max_length = 64"),
    (None, ("data.max_length=20000",), "command line: data.max_length = 20000: train.token_budget "
                                       "must fit one "
                                       "example of data.max_length = 20000"),
    (None, ("eval.batch_tokens=32",), "command line: eval.batch_tokens = 32: eval.batch_tokens "
                                      "must fit one "
                                      "example of data.max_length = 64"),
    (None, ("train.class_weights=[1,2,3]", "data.labels=[a,b]"),
     "command line: train.class_weights = [1, 2, 3]: train.class_weights has 3 numbers for 2 "
     "data.labels"),
    ("[optim]\nwarmup = 500", ("train.max_steps=300",),
     "job.toml: optim.warmup = 500: optim.warmup = 500 steps is longer than train.max_steps = 300"),
    (None, ("optim.warmup=1.5",), "command line: optim.warmup = 1.5: expected a share below 1 or "
                                  "an integer, "
                                  "e.g. 0.1 or 500"),
    (None, ("train.patience=3", "eval.every=end"),
     "command line: train.patience = 3: train.patience needs evaluations before the end; "
     'eval.every = "end" runs none'),
    (None, ("train.patience=3", "eval.every=50", "train.max_steps=50"),
     "command line: train.patience = 3: train.patience needs evaluations before the end; "
     "eval.every = 50 runs none before train.max_steps = 50"),
    (None, ("train.min_delta=0.1",), "command line: train.min_delta = 0.1: applies only with "
                                     "train.patience, "
                                     "e.g. patience = 3"),
    (None, ("data.label_column=text",), 'command line: data.label_column = "text": '
                                        'data.label_column and '
                                        "data.text_column must be different columns"),
    (None, ("data.config=split",), 'command line: data.config = "split": applies only to a hub id, '
                                   'not to data.source = "demo"'),
    (None, ("model.revision=main",), 'command line: model.revision = "main": applies only to a hub '
                                     'id, '
                                     'not to model.name = "demo"'),
    # keys that would be ignored
    ("[data]\ntext_column = 'review'\ntext_position = 0", (), 'job.toml: data.text_position = 0: '
     'data.text_column = "review" says which column it is, too; leave one of them out'),
    (None, ("data.pair_column=b", "data.pair_position=1"), "command line: data.pair_position = 1: "
     'data.pair_column = "b" says which column it is, too; leave one of them out'),
    (None, ("data.source=org/reviews", "data.split_column=part"), "command line: data.split_column "
     '= "part": applies only to files; data.source = "org/reviews" is none here, so it is a '
     "dataset of the hub"),
    ("[data]\nencoding = 'cp1252'", (), 'job.toml: data.encoding = "cp1252": applies only to '
     'files; data.source = "demo" has none; set data.source'),
    # the command line itself
    (None, ("train.epochs",), 'command line: "train.epochs": expected section.key=value, e.g. '
                              'train.epochs=3'),
    (None, ("=3",), 'command line: "=3": expected section.key=value, e.g. train.epochs=3'),
    (None, ("train.epochs=3", "train.epochs=4"),
     "command line: train.epochs = 4: set twice, first to 3; keep one"),
    # the file itself
    ("[train]\nepochs = three", (), "job.toml: line 2, column 10: not TOML: Invalid value "
                                    '(text needs quotes; true and false are lower case): "epochs = '
                                    'three"'),
    ("[train]\nepochs: 3", (), "job.toml: line 2, column 7: not TOML: Expected '=' after a key in "
                               "a key/value pair: "
                               '"epochs: 3"'),
    (b"[job]\nname = '\xff'", (), "job.toml: line 2: not UTF-8 text; a job file is TOML"),
    ("[train]\nseed = 1\nseed = 2\nepochs = 3\n", (), "job.toml: line 3, column 9: not TOML: "
     'Cannot overwrite a value (a key is set twice; keep one): "seed = 2"'),
    ("[train]\nseed = 1\nseed = 2", (), "job.toml: line 3, the end: not TOML: Cannot overwrite a "
                                       'value (a key is set twice; keep one): "seed = 2"'),
    ('[data]\nlabels = ["a",\n  "b"\n\n', (), "job.toml: line 3, the end: not TOML: Unclosed "
                                             'array: "\\"b\\""'),
    # paths
    *(("[run]\ndir = '$SCRATCH/runs'", (), 'job.toml: run.dir = "$SCRATCH/runs": variables have no '
      "meaning in a job; write the path itself, or give the key on the command line"),
      ("[data]\nsource = '${DATA}/a.csv'", (), 'job.toml: data.source = "${DATA}/a.csv": variables '
      "have no meaning in a job; write the path itself, or give the key on the command line"),
      (None, ("run.dir=~nobody-here/runs",), 'command line: run.dir = "~nobody-here/runs": there '
      "is no such user; write the path itself, or give the key on the command line"),
      (None, ("model.name=https://huggingface.co/a/b",), 'command line: model.name = '
      '"https://huggingface.co/a/b": a URL; expected a hub id or a path; download it first'),
      (None, ("run.dir=s3://bucket/runs",), 'command line: run.dir = "s3://bucket/runs": a URL; '
      "expected a folder, on a disk that all workers see")),
    ("x = " + 5000 * "[", (), "job.toml: not a job: brackets are nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "overrides", "line"), USAGE_ERROR, ids=[line[:90] for _, _, line in USAGE_ERROR]
)
def test_wrong_jobs_are_named_in_one_line(text, overrides, line):
    assert mistakes(text, *overrides) == [line]


VALUES = st.sampled_from([
    "none", "true", "0", "1", "-1", "3", "0.5", "1.5", "1e9", "nan", "[]", "[1,2]", "[[1]]",
    "[a,b]", "[[", "{}", "{a=1}", "lora", "end", "./x", "~", "demo", "''", '"', "2024-01-01",
    "a\nb", "\udcff", "\0", "9" * 5000, "[" * 500 + "]" * 500,
])  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from([*KEYS, "train", "optmi.lr", "x", "", "a.b.c", "a\nb"]), VALUES, max_size=6
    )
)
def test_whatever_is_typed_gives_a_job_or_lines(typed):
    try:
        job = load_job(None, [f"{dotted}={value}" for dotted, value in typed.items()])
    except UserError as error:
        assert error.lines
        assert all("\n" not in line for line in error.lines)
    else:
        assert Job.from_dict(job.to_dict()) == job


def test_lora_may_be_switched_off_for_a_job_that_has_its_keys():
    keys = "rank = 64\nalpha = 8\ndropout = 0.1\n"
    Path("job.toml").write_text(f'[adapter]\nkind = "lora"\n{keys}')
    job = load_job("job.toml", ["adapter.kind=none"])
    assert Job.from_dict(job.to_dict()) == job
    assert len(mistakes(f"[adapter]\n{keys}")) == 3


def test_all_mistakes_are_reported_at_once():
    assert mistakes(
        "[optim]\nlrr = 1\nlr = 0\n[adapter]\nbits = 4\n", "train.batch_size=16x", "epochs"
    ) == [
        'command line: "epochs": expected section.key=value, e.g. train.epochs=3',
        "job.toml: optim.lrr: unknown key; did you mean optim.lr?",
        "job.toml: optim.lr = 0: expected a number > 0, e.g. lr = 0.001",
        'command line: train.batch_size = "16x": expected an integer >= 1, e.g. '
        "train.batch_size=64",
        'job.toml: adapter.bits = 4: applies only to adapter.kind = "lora"',
    ]


def test_a_broken_file_does_not_hide_a_broken_command_line():
    assert [line.split(":")[0] for line in mistakes("[", "train.epochs=0")] == [
        "job.toml",
        "command line",
    ]


def test_a_wrong_value_makes_no_contradiction():
    assert len(mistakes(None, "data.validation_fraction=2", "data.test_fraction=0.5")) == 1


def test_missing_job_file_names_the_closest(tmp_path):
    with pytest.raises(UserError, match=r"^imdb: no such job file; the current folder is /"):
        load_job("imdb")
    Path("jobs").mkdir()
    Path("jobs/imdb.toml").touch()
    for path in ("imdb", "imbd.toml", "jobs/imdb.tml"):
        with pytest.raises(UserError) as caught:
            load_job(path)
        assert caught.value.lines == (f"{path}: no such job file; did you mean jobs/imdb.toml?",)
    with pytest.raises(UserError) as caught:
        load_job("nothing-like-it.toml")
    assert caught.value.lines == (
        "nothing-like-it.toml: no such job file; there are jobs/imdb.toml",
    )


def test_folder_instead_of_job_file():
    Path("jobs").mkdir()
    with pytest.raises(UserError) as caught:
        load_job("jobs")
    assert caught.value.lines == ("jobs: a folder, not a job file; it contains no .toml file",)
    Path("jobs/imdb.toml").touch()
    with pytest.raises(UserError) as caught:
        load_job("jobs/")
    assert caught.value.lines == ("jobs/: a folder, not a job file; it contains imdb.toml",)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300 + ".toml", "job.toml/deeper.toml"])
def test_odd_paths_are_no_traceback(path):
    Path("job.toml").touch()
    with pytest.raises(UserError) as caught:
        load_job(path)
    assert len(caught.value.lines) == 1


def test_local_sources_and_models_must_be_there(tmp_path):
    Path("reviews").mkdir()
    problem = "no such file or folder"
    assert mistakes(None, "data.source=./reviws") == [
        f'command line: data.source = "./reviws": {problem}; did you mean ./reviews?'
    ]
    assert mistakes(None, "model.name=./bert") == [
        f'command line: model.name = "./bert": {problem}; paths are relative to {tmp_path}'
    ]
    assert load_job(None, ["data.source=./reviews"]).data.source == "./reviews"
    assert load_job(None, ["data.source=org/reviews"]).data.source == "org/reviews"


def test_a_folder_may_have_a_dollar_in_its_name():
    Path("$a").mkdir()
    assert load_job(None, ["run.dir=$a", "data.source=./$a"]).run.dir == "$a"


def test_a_source_that_is_overridden_need_not_be_there():
    Path("job.toml").write_text('[data]\nsource = "./gone"\n')
    assert load_job("job.toml", ["data.source=demo"]) == Job()


def test_a_run_folder_cannot_be_a_file():
    Path("runs").touch()
    assert mistakes(None, "run.dir=runs") == [
        'command line: run.dir = "runs": is a file; expected a folder or a new path']  # fmt: skip


# The schema, its documentation, and fast answers


def test_every_default_and_example_is_what_its_key_accepts():
    for dotted, known in KEYS.items():
        for value in (known.example, known.default):
            assert known.accepts(value) and known.read(value) == value, dotted
        assert (known.default is None) == bool(known.unset), (
            f"{dotted}: to_toml could not write an unset value"
        )


NAMES = ("negative", "so so", "positive")


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("negative\nso so\npositive\n", NAMES),
        ("\ufeffnegative \r\nso so\r\npositive", NAMES),
        ("1\tnegative\n2\tso so\n3\tpositive\n\n", dict(zip("123", NAMES, strict=True))),
        ("pos\tpositive\nneg\tnegative", {"pos": "positive", "neg": "negative"}),
        ("0 stars\n1 star", ("0 stars", "1 star")),
    ],
)
def test_a_file_may_name_the_classes(content: str, labels: object):
    """The job holds what the file says: it means the same in another folder."""
    reviews = Path("reviews")
    reviews.mkdir()
    (reviews / "train.csv").touch()
    (reviews / "classes.txt").write_text(content, encoding="utf-8", newline="")
    for source in ("reviews", "reviews/train.csv"):
        job = load_job(None, [f"data.source={source}", "data.labels=classes.txt"])
        assert job.data.labels == labels
    assert load_job(None, ["data.labels=reviews/classes.txt"]).data.labels == labels


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "no such file, neither in {here} nor beside data.source; the names themselves are a "
               "list, e.g. [negative,positive]"),
        (b"a\n\nb\n", "line 2 is blank; expected a class name a line"),
        (b"a\n", "expected two or more class names, one a line"),
        (b"", "line 1 is blank; expected a class name a line"),
        (b"a\nb\na\n", "line 3: the name 'a' occurs twice"),
        (b"1\ta\n1\tb\n", "line 2: the value '1' occurs twice"),
        (b"1\ta\n2\ta\n", "line 2: the name 'a' occurs twice"),
        (b"1\ta\n2 b\n", "line 1: expected a class name a line, or a value, a tab and its name"),
        (b"caf\xe9\n", "not UTF-8 text"),
        (b'{\n"0": "a",\n"1": "b"\n}', "JSON or XML; expected a class name a line"),
        (b"id,name\n0,a\n1,b\n", "line 1: a header above values and names; leave it out"),
        (b"0,a\n1,b\n", "line 1: put a tab between a value and its name"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_name_the_classes(content: bytes | None, problem: str):
    if content is not None:
        Path("classes.txt").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_job(None, ["data.labels=classes.txt"])
    problem = problem.format(here=Path.cwd())
    assert caught.value.lines == (f'command line: data.labels = "classes.txt": {problem}',)


def test_the_documented_keys_are_the_schema():
    text = (REPOSITORY / "docs" / "jobs.md").read_text()
    assert reference.markdown_table() in text, (
        "put the new table there: python -m distsent.job.reference"
    )


def test_a_job_is_checked_without_heavy_imports():
    """Each takes a part of a second, in which a mistake could be shown."""
    script = (
        "import sys, distsent.job; distsent.job.load_job(None, ['train.epochs=2']); "
        "print(*sorted(set(map(lambda name: name.partition('.')[0], sys.modules))))"
    )
    command, env = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": ""}
    options = {"cwd": REPOSITORY, "env": env, "capture_output": True, "text": True, "check": True}
    imported = {*subprocess.run(command, **options).stdout.split()}
    heavy = {"torch", "numpy", "pandas", "pyarrow", "transformers", "datasets", "tokenizers"}
    assert "distsent" in imported and not imported & (heavy | {"tensorboard", "huggingface_hub"})


@pytest.mark.parametrize("word", ["data.source=imdb", "data.train=train.csv"])
def test_other_texts_than_the_demos_need_an_encoder(word: str) -> None:
    with pytest.raises(UserError, match=f'^{word.replace("=", ".*")}" needs an encoder') as raised:
        load_job_to_train(None, [word])
    assert raised.value.fix == {"model.name": "distilbert-base-uncased"}
    assert load_job_to_train(None, [word, "model.name=demo"]).model.name == "demo"
    assert load_job_to_train(None) == load_job(None)
