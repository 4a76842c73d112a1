"""Files that are not read as they are: named, with a command that makes a file that is read."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from distsent.data.dataset import open_dataset
from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.formats.options import FileOptions
from tests.dataset_files import data, mistakes
from tests.dataset_files import own_cache as own_cache
from tests.public_files import lines, sentence
from tests.spreadsheet_files import write_xlsx

SOME = range(16)
FIRST = {"text": sentence(0), "label": "pos"}
LABELS = "pos neg"


@dataclass(frozen=True)
class Case:
    """`makes`: the file that the command makes, and `rows` of it; without: no command helps."""

    content: str
    said: str
    makes: str = ""
    rows: int = 16


def table(form: str, **more: str) -> str:
    return lines(form, LABELS, rows=SOME, **more)


CASES = {
    "markdown.md": Case(
        "| text | label |\n|:-----|------:|\n" + table("| {text} | {label} |"),
        "a table drawn with lines: not read; sed -E", "markdown.new.csv"),
    "psql.csv": Case(
        f" {'text':^40} | label \n{'-' * 42}+-------\n" + table(" {text:40} | {label}")
        + "(16 rows)\n\n", "a table drawn", "psql.new.csv"),
    "mysql.txt": Case(
        f"+{'-' * 42}+-------+\n| {'text':40} | label |\n+{'-' * 42}+-------+\n"
        + table("| {text:40} | {label:5} |") + f"+{'-' * 42}+-------+\n",
        "a table drawn", "mysql.new.csv"),
    "train.libsvm": Case(table("{i} 3:0.5 7:1 {i}:1e-2"), "numbers of features (libsvm)"),
    "a9a": Case(table("+1 3:1 11:1 "), "numbers of features (libsvm)"),
    "train.vw": Case(
        table("{i} |f {text}"), "examples of Vowpal Wabbit: not read; sed -E", "train.new.tsv"),
    "eng.testa": Case(
        "-DOCSTART- -X- O O\n\n" + "EU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\n" * 9,
        "words with tags (CoNLL), not texts with labels"),
    "dev.tsv": Case("EU\tB-ORG\nrejects\tO\n\n" * 9, "words with tags (CoNLL)"),
    "nlu.md": Case(
        "## intent:pos\n" + table("- {text}") + "\n## intent:neg\n- so\n## lookup:x\n- no\n",
        "intents of Rasa: not read; awk ", "nlu.new.tsv", 17),
    "nlu.yml": Case(
        'version: "3.1"\nnlu:\n- intent: pos\n  examples: |\n' + table("    - {text}")
        + "- intent: neg\n  examples: |\n    - to [New York](city)\n- lookup: x\n  examples: |\n"
        + "    - no\nstories:\n- steps:\n  - intent: pos\n  - action: no\n",
        "intents of Rasa: not read; awk ", "nlu.new.tsv", 17),
    "film.srt": Case(
        table("{i}\n00:00:00,000 --> 00:00:00,900\n{text}\n"), "subtitles: not read"),
    "dump.sql": Case(
        "-- MySQL dump 10.13\n\nCREATE TABLE t (a INT);\nINSERT INTO t VALUES (1),(2);\n",
        "statements of SQL: not read; load them into the database"),
    "pairs.txt": Case(
        "[" + ", ".join(str((sentence(i), LABELS[:3])) for i in SOME) + "]\n",
        "a list of Python: not read; python -c ", "pairs.new.jsonl"),
    "export.xls": Case(
        "<table><tr><td>text</td></tr></table>", "a spreadsheet as a web page: not read; python"),
    "2003.xls": Case(
        '<?xml version="1.0"?>\n<?mso-application progid="Excel.Sheet"?>\n<Workbook/>',
        "a spreadsheet as XML: not read; soffice --convert-to xlsx "),
    "title.csv": Case(
        "Comments,\n,\ntext,label\n" + table("{text},{label}"),
        'the first row has nothing but "Comments", others have more; tail -n +3 < ',
        "title.new.csv"),
    "comments.tsv": Case(
        "# of\ttoday\n# mine\ntext\tlabel\n" + table("{text}\t{label}"), "tail -n +3",
        "comments.new.tsv"),
    "joined.csv": Case(
        "\ufefftext,label\n" + table("{text},{label}") + "\ufefftext,label\n",
        "joined.csv, row 17 (line 18): repeats the header, as in joined files; awk ",
        "joined.new.csv"),
    "label_last.csv": Case(
        "text,label\n" + table("{text}, so,{label}"), 'only the last "," of a line',
        "label_last.new.tsv"),
    "label_first.csv": Case(
        "label|text\n" + table("{label}|{text}|{i}|so"), 'only the first "|" of a line',
        "label_first.new.tsv"),
    "reviews.json": Case(
        table("{{'text': \"{text}\", 'label': u'{label}'}}"),
        "a dict of Python, not JSON (column 2); python -c ", "reviews.new.jsonl"),
    "prodigy.jsonl": Case(
        table('{{"text": "{text}", "label": "{label}", "_input_hash": {i}, "answer": "accept"}}')
        + '{"text": "no", "label": "pos", "_input_hash": 7, "answer": "reject"}\n',
        "its label is not meant, as Prodigy's answer is 'reject'; grep ", "prodigy.new.jsonl"),
    "chats.jsonl": Case(
        table('{{"messages": [{{"role": "user", "content": "{text}"}}, '
              '{{"role": "assistant", "content": "{label}"}}]}}'),
        "chats; python -c ", "chats.new.jsonl"),
    "qualtrics.csv": Case(
        "text,label\nWhat?,Mood?\n" + '"{""ImportId"":""QID1""}","{""ImportId"":""QID2""}"\n'
        + table("{text},{label}"), "three rows of headers, as of Qualtrics; python -c ",
        "qualtrics.new.csv"),
    "aligned.txt": Case(
        f"{'label':8}{'text':60}\n" + table("{label:8}{text:60}"),
        "columns aligned by blanks: not read; python -c ", "aligned.new.csv"),
    "texts.json": Case(
        json.dumps({label: [sentence(i) for i in SOME[k::2]] for k, label in enumerate("ab")}),
        "an object with a list of texts for each key: not read; python -c ", "texts.new.jsonl"),
    "objects.json": Case(
        json.dumps({label: [{"text": sentence(i)} for i in SOME[k::2]]
                    for k, label in enumerate("ab")}),
        "an object with a list of objects for each key: not read; python", "objects.new.jsonl"),
    "map.json": Case(
        json.dumps({sentence(i): LABELS.split()[i % 2] for i in SOME}),
        "texts as keys: not read; python -c ", "map.new.jsonl"),
    "list.yaml": Case(
        table("- text: {text}\n  label: {label}\n"), "YAML: not read; python -c ",
        "list.new.json", 1),
    "lists.json": Case(
        json.dumps({"nlu": {"rows": [{"text": sentence(i)} for i in SOME], "words": [{"x": 1}]}}),
        "an object with lists of objects ('nlu.rows', 'nlu.words'), of which one has rows; python",
        "lists.new.jsonl"),
    "share.json": Case(
        json.dumps([{"id": i, "conversations": [{"from": "human", "value": sentence(i)},
                                                {"from": "gpt", "value": "pos"}]} for i in SOME]),
        "chats; python -c ", "share.new.jsonl"),
    "dos.csv": Case(
        "text,label\n" + table("{text},{label}") + "\x1a",
        "ends with Ctrl-Z, the end mark of DOS, which is no text; tr -d ", "dos.new.csv"),
}  # fmt: skip


TABLES = {  # that look a little like such formats
    "pipes.csv": "11001|1|joy|so it was\n11002|1|fear|so it was not\n" * 9,
    "spaced.csv": "id | text | label\n1 | so it was | joy\n2 | so it was not | fear\n" * 9,
    "intents.csv": "set an alarm,alarm\ncopy that, please\ninsert into it,x\n" * 9,
    "html.csv": "<div>so</div>,pos\n<div>it</div>,neg\n" * 9,
    "dashes.csv": "text|label\n-- so|pos\n--|neg\n" * 9,
    "times.csv": "0 3:15 pm,a\n1 4:30 pm,b\n" * 9,
    "blanks.txt": "so  it was\nthe end\nit was not  so\n" * 9,
    "letters.csv": "text,label\nblood is B-positive,O\nno,O\n" * 9,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_not_taken_for_another_format(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text(TABLES[name])
    try:
        open_file(File(path, name, strict=True))
    except UserError as error:
        assert ": not read;" not in str(error)


def read(path: Path, strict: bool = True) -> object:
    return [*open_file(File(path, path.name, strict=strict)).records(["text", "label"])]


@pytest.mark.parametrize("name", CASES)
def test_the_line_names_the_format_and_its_command_works(tmp_path: Path, name: str):
    case, path = CASES[name], tmp_path / name
    path.write_text(case.content)
    (line,) = mistakes(lambda: read(path))
    assert case.said in line
    strict = ("map.json", "texts.json", "objects.json", "share.json")
    if not name.endswith("jsonl") and name not in strict:
        assert case.said in mistakes(lambda: read(path, strict=False))[0]
    if case.makes:
        check_command(line, tmp_path / case.makes, case.rows)
    if name.startswith("nlu."):
        made = (tmp_path / case.makes).read_text()
        assert made.startswith("label\ttext\npos\t") and "no" not in made
        assert "[" not in made


def per_label(texts: str = "texts", whole: bool = False) -> list[dict[str, Any]]:
    """A row for each label, with its texts: as they are, or each an object."""
    some = [(label, [sentence(i) for i in SOME[k::2]]) for k, label in enumerate(LABELS.split())]
    return [{"tag": c, texts: [{"text": x} for x in xs] if whole else xs} for c, xs in some]


LISTS: dict[str, tuple[Any, str, str]] = {  # content, columns of text and label, what is said
    "intents.json": ({"intents": per_label("patterns")}, "patterns tag", "a list of texts"),
    "list.json": (per_label(), "texts tag", "a list of texts: not read; python"),
    "lines.jsonl": (per_label(), "texts tag", "a list of texts"),
    "table.parquet": (per_label(), "texts tag", "a list of texts"),
    "odd $ names.jsonl": (per_label('the "texts"'), 'the "texts" tag', "a list of texts"),
    "deep.jsonl": ([{"a": row} for row in per_label()], "a.texts a.tag", "a list of texts"),
    "pairs.json": ([[row["tag"], row["texts"]] for row in per_label()], "1 0", "a list of texts"),
    "objects.json": (per_label(whole=True), "texts tag", "a list of objects"),
    "keys.jsonl": ([{row["tag"]: row["texts"]} for row in per_label()], "pos neg", "columns are"),
    "parts.json": (
        [{"data": [{"text": sentence(i)[:9]}, {"text": sentence(i)[9:]}], "tag": "ab"[i % 2]}
         for i in SOME], "data tag", "a text in parts: not read; python"),
    "struct.parquet": (
        [{"data": sentence(i), "tag": {"a": i % 2, "b": 1 - i % 2}} for i in SOME],
        "data tag", "is an object: not read; python"),
}  # fmt: skip


@pytest.mark.parametrize("name", LISTS)
def test_texts_and_labels_in_lists_and_objects(name: str, tmp_path: Path, own_cache: Path) -> None:
    content, columns, said = LISTS[name]
    path, (text, label) = tmp_path / name, columns.rsplit(" ", 1)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(content), path)
    else:
        lines = content if path.suffix == ".jsonl" else [content]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    keys = {"text_column": text, "label_column": label, "validation_fraction": 0.1}
    (line,) = mistakes(lambda: open_dataset(data(path, **keys), 1).splits)
    assert said in line
    made = tmp_path / f"{name.split('.')[0]}.new.jsonl"
    check_command(line, made, 16)
    rows = [*map(json.loads, made.read_text().splitlines())]
    found = {
        (row.get("text", row.get("data")), str(row.get("label", row.get("tag")))) for row in rows
    }
    if "struct" not in name:
        labels = "ab" if name == "parts.json" else LABELS.split()
        assert found == {(sentence(i), labels[i % 2]) for i in SOME}


def check_command(line: str, made: Path, rows: int) -> None:
    """The command in a line makes a file of these rows."""
    (command,) = re.findall(
        r"[;:] ((?:sed|awk|tail|tr|grep|python) .*?)"
        r"(?: (?:leaves|removes|conv|keeps|takes|writes|joins).*)?$",
        line,
    )
    subprocess.run(["bash", "-c", command], check=True, timeout=60)
    content = made.read_text()
    there = sum(map(bool, content.splitlines()))
    assert there in (rows, rows + 1) and content.count(sentence(0)) == 1


@pytest.mark.parametrize("name", ["films.csv", "films.new.csv", "my 'film' $1.csv"])
def test_no_command_overwrites_a_file(name: str, tmp_path: Path):
    arff = "@relation x\n@attribute text string\n@attribute label {pos,neg}\n@data\n"
    path, made = tmp_path / name, tmp_path / f"{name.removesuffix('.csv')}.new.csv"
    for content in (CASES["aligned.txt"].content, arff + table("'{text}',{label}")):
        path.write_text(content)
        (line,) = mistakes(lambda: read(path))
        check_command(line, made, 16)
        assert path.read_text() == content
    path.write_bytes(b"SQLite format 3\0" + bytes(99))
    command = mistakes(lambda: read(path))[0].partition("not read; ")[2]
    assert shlex.split(command)[-7:-5] == [">", str(made)]


def test_rows_above_the_header_of_a_sheet(tmp_path: Path):
    rows = [[sentence(i), LABELS.split()[i % 2]] for i in SOME]
    path = write_xlsx(tmp_path / "x.xlsx", {"S": [["Report"], [], ["text", "label"], *rows]})
    (line,) = mistakes(lambda: read(path))
    assert 'x.xlsx: the first row has nothing but "Report", others have more; python -c' in line
    check_command(line, tmp_path / "x.new.csv", 16)
    reader = open_file(File(tmp_path / "x.new.csv", "x.new.csv", strict=True))
    assert next(reader.records(["text", "label"]))[1] == FIRST


def test_a_label_before_a_colon(tmp_path: Path):
    path = tmp_path / "colon.txt"
    path.write_text(table("{label}:{text}"))
    (line,) = mistakes(lambda: read(path))
    assert "in the first); data.format" in line and "; if it ends at the colon: sed " in line
    check_command(line, tmp_path / "colon.new.tsv", 16)
    path.write_text(table("{label}: {text}"))
    reader = open_file(File(path, "x.txt", FileOptions(format="label_text"), strict=True))
    assert next(reader.records(["text", "label"]))[1] == FIRST
    assert reader.notes == ["a colon follows each label and is not a part of it"]
