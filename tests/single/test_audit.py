"""audit: flipped labels are found, near duplicates are those of all pairs, folds are runs."""

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from distsent import audit
from distsent.data import folds as folds_of
from distsent.data.dataset import open_dataset
from distsent.data.near_duplicates import LEAST, first_equal, letters, near_duplicates
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.label_errors import find_label_errors
from distsent.job.schema import DataSection
from distsent.reporting import plots
from distsent.reporting.findings import equal_pairs, text_findings
from distsent.reporting.finished_run import read_run
from tests import fixtures, systems
from tests.parallel.driver import drive, entry


@pytest.mark.parametrize(
    ("classes", "scale", "share"),
    [
        (2, 1.0, 0.05),
        (6, 1.0, 0.05),
        (6, 3.0, 0.05),
        (28, 1.0, 0.05),
        (6, 1.0, 0.3),
        (6, 0.2, 0.01),
    ],
)
def test_flipped_labels_are_found_at_any_scale_of_the_logits(
    classes: int, scale: float, share: float
) -> None:
    rng, n = np.random.default_rng(classes), 4000
    truth = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes))
    seen = np.where(rng.random(n) < 1 - share, truth, rng.integers(0, classes, n))
    logits[np.arange(n), seen] += 6 + np.log(classes)
    flipped = rng.random(n) < share
    labels = np.where(flipped, (truth + rng.integers(1, classes, n)) % classes, truth)
    found = find_label_errors((scale * logits).astype(np.float32), labels)
    right = flipped[found.rows]
    assert right.sum() / flipped.sum() > 0.8 and right.mean() > 0.5
    assert (found.suggested[right] == truth[found.rows[right]]).mean() > 0.75
    assert (np.diff(found.scores) <= 0).all() and (found.suggested != labels[found.rows]).all()


def test_labels_without_a_reason_to_doubt_are_left_alone() -> None:
    labels = np.arange(30) % 3
    logits = np.eye(3, dtype=np.float32)[labels] * 5
    for values in (logits, 0 * logits, logits[:, [0, 1, 2]] + 100):
        assert len(find_label_errors(values, labels).rows) == 0
    rare = np.where(labels == 2, 0, labels)  # nobody has the third class: it is never suggested
    assert 2 not in find_label_errors(logits, rare).suggested
    with pytest.raises(UserError, match="not finite"):
        find_label_errors(np.full((30, 3), np.nan, np.float32), labels)


def test_near_duplicates_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    words = [f"word{i}" for i in range(300)]
    texts = [" ".join(rng.choice(words, rng.integers(8, 30))) for _ in range(150)]
    for i in range(60):  # changed by 0 to 3 words, in case and in white space
        changed = texts[i].split()
        for place in rng.integers(0, len(changed), i % 4):
            changed[place] = str(rng.choice(words))
        texts.append("  ".join(changed).upper())
    texts += ["", " ", "a", "A ", "\U0001f600", "\ud800 lone"]

    def pieces(text: str) -> set[str]:
        text = letters(text)
        width = min(5, len(text))
        return {text[i : i + width] for i in range(len(text) - width + 1)}

    sets = [pieces(text) for text in texts]
    expected: dict[int, dict[int, float]] = {}
    for first, second in combinations(range(len(texts)), 2):
        index = len(sets[first] & sets[second]) / len(sets[first] | sets[second])
        if index >= LEAST:
            expected.setdefault(second, {})[first] = index
    found = {row: (other, index) for row, other, index in near_duplicates(texts)}
    assert found.keys() == expected.keys() and len(found) > 30
    for row, (other, index) in found.items():
        assert expected[row][other] == pytest.approx(index)
    assert [*near_duplicates([])] == [*near_duplicates(["one"])] == []
    many = [*near_duplicates(["the same text again"] * 3000)]
    assert [other for _, other, _ in many] == [0] * 2999


SENTENCE = (
    "The music was great, and I would not call the plot dull; the villain, though, is a joy to "
    "watch from start to finish"
)
EDITS = {
    "case and white space": f"  {SENTENCE.upper()}\n",
    "punctuation": SENTENCE.replace(",", " -").replace(";", "...") + "!!",
    "markup": "<p>" + SENTENCE.replace("; ", "<br /><br />") + "</p>",
    "entities": SENTENCE.replace(", and", "&nbsp;&amp; and"),
    "quotes": f"\u201c{SENTENCE}\u201d",
    "a word": SENTENCE.replace("great", "wonderful"),
    "a word less": SENTENCE.replace(" though,", ""),
    "a word more": f"{SENTENCE} again",
    "typing": SENTENCE.replace("watch", "wacth").replace("music", "musik"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_text_is_a_near_duplicate(edit: str) -> None:
    assert [(row, other) for row, other, _ in near_duplicates([SENTENCE, EDITS[edit]])] == [(1, 0)]


def test_other_texts_are_no_near_duplicates() -> None:
    """Short texts, and those of punctuation alone, have few pieces that could be shared."""
    texts = [
        *("good", "good?!", "bad", ":)", ":(", "...", "\U0001f600", "\U0001f622", "C++", "C#"),
        *("i feel good", "i feel bad", "\u0915\u093f", "\u0915\u0940", "<br />", "<b>", "1"),
        *(
            "i feel so happy today",
            "i feel so sad today",
            SENTENCE,
            " ".join(SENTENCE.split()[::-1]),
        ),
    ]
    assert [*near_duplicates(texts)] == []
    assert first_equal([*texts, "GOOD ", "Good?!"]).tolist() == [*range(len(texts)), 0, 1]


def test_folds_share_classes_and_keep_equal_texts_together() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 500, dtype=np.uint64)[rng.integers(0, 500, 900)]
    labels = (hashes % np.uint64(3)).astype(int)
    folds = folds_of.draw_folds(labels, hashes, 4, "--folds 4")
    assert all(len(np.unique(folds[hashes == one])) == 1 for one in hashes)
    texts = np.unique(hashes, return_index=True)[1]
    counts = [np.bincount(labels[texts][folds[texts] == i], minlength=3) for i in range(4)]
    assert np.ptp(counts, axis=0).max() <= 1
    with pytest.raises(UserError, match="--folds 9: train has only 3 different texts"):
        folds_of.draw_folds(labels[:3], np.arange(3, dtype=np.uint64), 9, "--folds 9")


def test_a_run_is_audited_by_its_folds(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    run, out = finished / "plain", tmp_path / "new" / "audit.jsonl"
    words = [str(run), "--out", str(out)]
    assert audit.main(words) == 0
    printed = capsys.readouterr().out
    assert "plain: labels of 60 of 120 rows checked" in printed and f"\n{out}\n" in printed
    for _ in range(2):  # the second time there is nothing to train
        assert audit.main([*words, "--folds", "2"]) == 0
        assert "plain: labels of 120 of 120 rows checked" in capsys.readouterr().out
    states = sorted(finished.glob("plain-audit-?of2-*/result.json"))
    assert [json.loads(path.read_text())["eval"]["test"]["n"] for path in states] == [30, 30]
    findings = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = [one["kind"] for one in findings]
    assert kinds == sorted(kinds, key=["label", "conflict", "duplicate"].index)
    for one in findings:
        rows = [
            json.loads(line)
            for line in (finished.parent / "corpus" / one["file"]).read_text().splitlines()
        ]
        assert rows[one["row"] - 1]["text"] == one["text"]
        assert rows[one["row"] - 1]["label"] == one["label"] != one["suggested_label"]


def test_texts_that_are_the_only_ones_of_a_class_are_in_no_fold(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    run, corpus = with_own_dataset(finished, tmp_path)
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    rare, *_, usual = fixtures.LABELS
    for row in rows[:-1]:
        row["label"] = usual if row["label"] == rare else row["label"]
    rows[-1]["label"] = rare
    fixtures.jsonl(corpus / "train.jsonl", rows)
    assert audit.main([str(run), "--folds", "2"]) == 0
    said = "train: 1 row not scored: without them, a fold would train without a class"
    printed = capsys.readouterr().out
    assert "plain: labels of 119 of 120 rows checked" in printed and said in printed
    findings = map(json.loads, (run / "audit.jsonl").read_text().splitlines())
    places = [one["row"] for one in findings if one["kind"] == "label" and one["split"] == "train"]
    assert len(rows) not in places


def test_a_class_whose_texts_one_fold_would_hold_out_is_in_none() -> None:
    hashes = np.arange(12, dtype=np.uint64)
    one = np.repeat([0, 1, 2], [6, 5, 1])
    several = np.zeros((12, 3), bool)
    several[:, 0], several[[1, 5], 1] = True, True
    several[np.arange(12) % 4 == 1, 2] = True  # all of them in one of two folds
    with_two = np.concatenate([one, [2]])  # a text of another class, too
    for labels, texts, left in (
        (one, hashes, [11]),
        (several, hashes, [1, 5, 9]),
        (with_two, np.append(hashes, hashes[0]), []),
        (several.astype(np.float32), hashes, []),
    ):
        folds = folds_of.draw_folds(labels, texts, 2, "--folds 2")
        assert np.flatnonzero(folds < 0).tolist() == left, labels
    with pytest.raises(UserError, match="--folds 2: only 0 different texts are of classes with"):
        folds_of.draw_folds(np.array([0, 1, 2, 3]), hashes[:4], 2, "--folds 2")


def with_own_dataset(finished: Path, folder: Path) -> tuple[Path, Path]:
    """A copy of the run `plain`, and a copy of its dataset, of which it says that it is its own."""
    corpus = shutil.copytree(finished.parent / "corpus", folder / "corpus")
    run = shutil.copytree(finished / "plain", folder / "plain")
    result = fixtures.result(run)
    result["job"]["data"]["source"] = str(corpus)
    (run / "result.json").write_text(json.dumps(result))
    return run, corpus


def test_changed_rows_or_another_job_have_folds_of_their_own(
    finished: Path, tmp_path: Path
) -> None:
    """Those of the rows before have scored other rows under the same numbers."""
    path, corpus = with_own_dataset(finished, tmp_path)
    run = read_run(path)
    job = audit.audited_job(run)
    first = audit.write_folds(run, job, 2)
    assert audit.write_folds(run, job, 2) == first and len(first) == 2
    logged = replace(job, log=replace(job.log, every=7), run=replace(job.run, resume="never"))
    assert audit.write_folds(run, logged, 2) == first
    assert audit.fold_job(run, logged, "x").run.resume == "auto"  # a stopped audit resumes
    other = replace(job, optim=replace(job.optim, lr=1.0))
    assert audit.write_folds(run, other, 2).keys().isdisjoint(first)
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().split("\n") if line]
    rows[30]["label"] = next(name for name in fixtures.LABELS if name != rows[30]["label"])
    fixtures.jsonl(corpus / "train.jsonl", rows)
    changed = audit.write_folds(run, job, 2)
    assert changed.keys().isdisjoint(first)
    for name, numbers in {**first, **changed}.items():
        text = (tmp_path / "plain-audit" / name / "test.jsonl").read_text()
        found = [json.loads(line)["text"] for line in text.split("\n") if line]
        assert found == [rows[number]["text"] for number in numbers]


def test_rows_that_a_model_has_not_scored_are_an_error(finished: Path, tmp_path: Path) -> None:
    path, corpus = with_own_dataset(finished, tmp_path)
    run = read_run(path)
    job = audit.audited_job(run)
    splits = {"train": audit.open_splits(run, job)["test"]}  # the run itself as a fold of them
    ((_, rows, logits),) = audit.held_out(run, splits, [audit.Fold(np.arange(40), job)])
    assert rows.tolist() == [*range(40)] and len(logits) == 40
    for others in (np.arange(40)[::-1], np.arange(1, 41)):
        with pytest.raises(UserError, match=r"^data\.source: its train rows have changed since"):
            [*audit.held_out(run, splits, [audit.Fold(others, job)])]
    test = corpus / "test.jsonl"
    test.write_text(test.read_text().replace('"text": "', '"text": "w1 ', 1))  # the same labels
    with pytest.raises(UserError, match=r"^data\.source: its test rows are not those that the ru"):
        audit.main([str(path)])


def test_folds_keep_the_rows_that_the_run_keeps(finished: Path, tmp_path: Path) -> None:
    """Texts such as None are texts if the job says so, and what the run drops is dropped."""
    path, corpus = with_own_dataset(finished, tmp_path)
    with open(corpus / "train.jsonl", "a", encoding="utf-8") as file:
        file.write('{"text": "None", "label": "bad"}\n' * 9)
    run = read_run(path)
    job = audit.audited_job(run)
    job = replace(job, data=replace(job.data, na_values=(), drop_bad_rows=True))
    for name, held_out in audit.write_folds(run, job, 2).items():
        fold = audit.fold_job(run, job, name).data
        splits = open_dataset(fold, 0).splits
        assert len(splits["test"]) == len(held_out) == 69 - len(splits["train"])
        assert fold.drop_bad_rows


def test_a_run_that_has_dropped_rows_is_audited_without_them(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, corpus = with_own_dataset(finished, tmp_path)
    test, kept = corpus / "test.jsonl", path / "predictions/test.safetensors"
    lines = test.read_text().split("\n")
    test.write_text("\n".join([*lines[:5], '{"text": "[PAD]", "label": "bad"}', *lines[5:]]))
    arrays = load_file(kept)
    arrays["rows"][5:] += 1  # the run has read the other rows of that file
    save_file(arrays, kept)
    with pytest.raises(UserError, match=r"^data\.source: its test rows are not those"):
        audit.main([str(path)])
    result = fixtures.result(path)
    result["job"]["data"]["drop_bad_rows"] = True
    (path / "result.json").write_text(json.dumps(result))
    assert audit.main([str(path)]) == 0
    assert "labels of 60 of 121 rows checked" in capsys.readouterr().out
    run = read_run(path)
    splits = {"test": audit.open_splits(run, audit.audited_job(run))["test"]}
    ((_, rows, _),) = audit.held_out(run, splits, [])
    assert rows.tolist() == [*range(5), *range(6, 41)]


def test_wrong_command_lines_are_one_line(finished: Path, tmp_path: Path) -> None:
    cases = {
        (str(tmp_path),): "not a run folder",
        (str(finished / "plain"), "--folds", "1"): "--folds 1: expected 2 or more",
        (str(finished / "plain"), "--folds", "x"): "invalid int value",
        (str(finished / "plain"), "--folds", "50"): "--folds 50: train has only",
    }
    for words, line in cases.items():
        with pytest.raises(UserError, match=line) as caught:
            audit.main([*words])
        assert len(caught.value.lines) == 1
    changed = fixtures.result(finished / "plain")
    changed["labels"] = ["bad", "good", "fair"]
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "job.json").write_text("{}")
    (folder / "result.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"data\.source: its classes are bad, fair, good; the run"):
        audit.main([str(folder)])


def test_equal_texts_with_two_labels_come_before_near_duplicates(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(finished / "plain")
    rows = {
        "train": [("one text that is long enough", "bad"), ("another one of them", "good")],
        "test": [
            ("One  text that is long enough", "good"),
            ("one text that is long enough!", "bad"),
            ("another one of them", "good"),
        ],
    }
    for name, some in rows.items():
        values = [{"text": text, "label": label} for text, label in some]
        fixtures.jsonl(tmp_path / f"{name}.jsonl", values)
    data = DataSection(source=str(tmp_path), labels=fixtures.LABELS)
    found = [*text_findings(run.task, open_dataset(data, 0).splits)]
    shown = [(o["kind"], o["split"], o["row"], o["label"], o["duplicate_of"]["row"]) for o in found]
    assert shown == [
        ("conflict", "test", 1, "good", 1),
        ("duplicate", "test", 3, "good", 2),
        ("duplicate", "test", 2, "bad", 1),
    ]
    assert found[0]["suggested_label"] == "bad" and found[2]["score"] == 1


def test_of_equal_texts_the_usual_label_is_suggested() -> None:
    """Also if another text, which is almost the same, comes first."""
    texts = ["a long text?", "a long text", "A long  text", "b", "a long text", "b", "c"]
    first = first_equal(texts)
    assert first.tolist() == [0, 1, 1, 3, 1, 3, 6]
    pairs = equal_pairs(first, [0, 2, 1, 1, 1, 0, 0].__getitem__)
    assert [*pairs] == [(1, 2), (4, 2), (5, 3)]


@pytest.mark.parametrize("task", fixtures.TASKS)
def test_the_texts_of_each_task_are_audited(task: str, tmp_path: Path, capsys) -> None:
    """Equal texts with other labels are conflicts; labels as such are not checked."""
    corpus = fixtures.task_corpus(tmp_path / "corpus", train=12, validation=6, test=6)
    rows = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    same, other = ({**rows[i], "text": rows[0]["text"].upper()} for i in (0, 1))
    fixtures.jsonl(corpus / "train.jsonl", [*rows, same, other])
    encoder = systems.encoder(tmp_path / "encoder", "bert")
    words = [
        f"data.source={corpus}", f"model.name={encoder}", f"run.dir={tmp_path}",
        "data.max_length=40", "train.max_steps=1", "log.tensorboard=false",
        *fixtures.TASKS[task],
    ]  # fmt: skip
    drive([entry("run", words)], World())
    capsys.readouterr()
    assert audit.main([str(tmp_path / "run")]) == 0
    assert "run: labels of 0 of 26 rows checked" in capsys.readouterr().out
    found = [json.loads(line) for line in (tmp_path / "run/audit.jsonl").read_text().splitlines()]
    conflict = next(one for one in found if one["kind"] == "conflict")
    duplicate = next(one for one in found if one["score"] == 1 and one["kind"] == "duplicate")
    values = {"multi_label": "labels", "regression": ["value", "length"]}[task]

    def label(row: dict) -> object:
        several = isinstance(values, str)
        return sorted(row[values]) if several else {key: row[key] for key in values}

    assert (conflict["row"], conflict["label"]) == (14, label(other))
    assert conflict["suggested_label"] == label(rows[0]) == duplicate["label"]
    with pytest.raises(UserError, match=r"^--folds 3: checks labels of"):
        audit.main([str(tmp_path / "run"), "--folds", "3"])
