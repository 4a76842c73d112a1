"""Texts in formats that are known but not read, by what their lines look like."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from distsent.errors import UserError
from distsent.formats.commands import filtered, in_pandas, python
from distsent.formats.compression import Source
from distsent.formats.streams import head_of

FEW, ALIGNED = 3, 10  # lines: fewer do not show a format
_NAME = re.compile(r"\S+( \S+)*(?=  |$)")
_SEPARATED = re.compile("[,;|\t]")
_RULER = re.compile(r"[ \t]*[|+: =-]*-{2,}[|+: =-]*[ \t]*")
_FEATURES = re.compile(r"[-+]?[\d.,]+( +(qid:)?\d+:[-+\d.eE]+)+ *(#.*)?")
_VOWPAL = re.compile(r"[-+]?[\d.]+( [\d.]+)?( '\S+)? \|[A-Za-z_]\w* [^|]*(\|[A-Za-z_]\w* [^|]*)*")
_TAGGED = re.compile(r"\S+([ \t]\S+){0,8}[ \t]([BIESLU]-\S+|O)")
_TIMES = re.compile(r"(\d+:)?\d\d:\d\d[,.]\d{3} --> (\d+:)?\d\d:\d\d[,.]\d{3}.*")
_BEGIN = re.compile(
    r"\s*(--|/\*|(create|drop) table\b|insert into\b|set [\w@.]+ *=|begin;|pragma\b)", re.IGNORECASE
)
_STATEMENT = re.compile(r"\s*(insert into \S+ *(\(|values\b|select\b)|copy .* from stdin;)", re.I)
_PYTHON = re.compile(r"\s*\[\s*[(\[]\s*[urb]?['\"].*")
_UNDRAW = (
    r"sed -E '/^[-+|:= ]+$/d; /^\([0-9]+ rows?\)$/d; s/^ *\|? *//; s/ *\|? *$//; s/ *\| */|/g'"
)
_READ_HTML = "read_html({})[0]"
# Without the marks of entities: [Berlin](city), [Berlin]{"entity": "city"}
_PRINT_BARE = (
    r"while(match($0,/\[[^]]*\](\([^)]*\)|\{[^}]*\})/)){e=substr($0,RSTART+1,RLENGTH-1);"
    r'$0=substr($0,1,RSTART-1) substr(e,1,index(e,"]")-1) substr($0,RSTART+RLENGTH)};'
    r'print i "\t" $0'
)
_INTENT = (
    r"""awk 'BEGIN{print "label\ttext"} /^#/{i=/^## intent:/?substr($0,11):"";next} """
    rf"""i&&/^ *[-*+] /{{sub(/^ *[-*+] /,"");{_PRINT_BARE}}}'"""
)
_YAML_INTENT = (
    r"""awk 'BEGIN{print "label\ttext"} /^[a-z_]+:/{n=/^nlu:/} """
    r"""/^ *- (intent|synonym|lookup|regex):/{i=n&&/- intent:/?$NF:"";next} """
    rf"""i&&/^ *- /{{sub(/^ *- /,"");{_PRINT_BARE}}}'"""
)
_YAML = "import json,sys,yaml;print(json.dumps(yaml.load(sys.stdin,yaml.BaseLoader)))"
_LITERAL = (
    'python -c "import ast,json,sys;'
    '[print(json.dumps(x))for x in ast.literal_eval(sys.stdin.read())]"'
)


class Known(NamedTuple):
    """A format of texts. `is_it` sees the first lines that are not blank; `fix` is a way out."""

    name: str
    is_it: Callable[[Sequence[str]], bool]
    fix: Callable[[Source], str]


def _most(pattern: re.Pattern[str], lines: Sequence[str], share: float = 0.95) -> bool:
    return sum(bool(pattern.fullmatch(line)) for line in lines) >= share * len(lines)


def _is_drawn(lines: Sequence[str]) -> bool:
    """A table with lines of - between its rows, as in Markdown, psql and mysql."""
    rulers = [line for line in lines[:3] if _RULER.fullmatch(line) and ("|" in line or "+" in line)]
    return bool(rulers) and any("|" in line and not _RULER.fullmatch(line) for line in lines[:3])


def _is_tagged(lines: Sequence[str]) -> bool:
    return _most(_TAGGED, lines, 0.9) and any(
        " B-" in f" {line}".replace("\t", " ") for line in lines
    )


def _is_aligned(lines: Sequence[str]) -> bool:
    """A table whose columns begin below the names of a header; blanks fill them up."""
    begins = _begins_of_names(lines[0])
    if not begins or len(lines) < ALIGNED or _SEPARATED.search(lines[0]):
        return False
    rows = [line for line in lines[1:] if len(line.rstrip()) > begins[0]]
    fit = sum(all(at >= len(row) or row[at - 1] == " " for at in begins) for row in rows)
    filled = sum(row[begins[0]] != " " for row in rows)
    gaps = sum("  " in row[: begins[-1]] for row in rows)
    return fit == len(rows) and min(filled, gaps) * 10 >= 9 * (len(lines) - 1)


def _begins_of_names(header: str) -> list[int]:
    return [name.start() for name in _NAME.finditer(header.rstrip())][1:]


def _read_aligned(source: Source) -> str:
    header = next(line for line in _lines_of(head_of(source)) if line.strip())
    begins = _begins_of_names(header)
    columns = [*zip([0, *begins], [*begins, None], strict=True)]
    return f"read_fwf({{}}, colspecs={columns}, dtype=str, keep_default_na=False)"


def _begins(*words: str) -> Callable[[Sequence[str]], bool]:
    return lambda lines: lines[0].lstrip().lower().startswith(words)


def _fixed(fix: str) -> Callable[[Source], str]:
    return lambda _: fix


KNOWN = (
    Known(
        "columns aligned by blanks",
        _is_aligned,
        lambda s: f"{in_pandas(s, _read_aligned(s))} converts it",
    ),
    Known(
        "a table drawn with lines",
        _is_drawn,
        lambda s: f"{filtered(s, _UNDRAW, '.csv')} leaves its rows, with | between the fields",
    ),
    Known(
        "numbers of features (libsvm), not texts",
        lambda lines: _most(_FEATURES, lines),
        _fixed("name a file of the texts from which the features were made"),
    ),
    Known(
        "examples of Vowpal Wabbit",
        lambda lines: _most(_VOWPAL, lines),
        lambda s: (
            filtered(s, r"""sed -E 's/^([^ ]+)[^|]*\|[^ ]* ?/\1\t/'""", ".tsv")
            + " leaves labels and texts"
        ),
    ),
    Known(
        "words with tags (CoNLL), not texts with labels",
        _is_tagged,
        _fixed("distsent gives a text one label; it does not tag words"),
    ),
    Known(
        "intents of Rasa",
        _begins("## intent:"),
        lambda s: f"{filtered(s, _INTENT, '.tsv')} leaves labels and texts",
    ),
    Known(
        "intents of Rasa",
        lambda lines: any(line.rstrip() == "nlu:" for line in lines[:9]),
        lambda s: f"{filtered(s, _YAML_INTENT, '.tsv')} leaves labels and texts",
    ),
    Known(
        "subtitles",
        lambda lines: any(_TIMES.fullmatch(line.strip()) for line in lines[:4]),
        _fixed("write a csv with a text and its label in each row"),
    ),
    Known(
        "statements of SQL",
        lambda lines: bool(_BEGIN.match(lines[0])) and any(map(_STATEMENT.match, lines)),
        _fixed("load them into the database, and export the table as csv"),
    ),
    Known(
        "a list of Python",
        lambda lines: bool(_PYTHON.match(lines[0])),
        lambda s: f"{filtered(s, _LITERAL, '.jsonl')} converts it",
    ),
    Known(
        "a spreadsheet as a web page",
        lambda lines: (
            _begins("<table", "<div", "<meta", "<style")(lines)
            and any("<tr" in line.lower() for line in lines)
        ),
        lambda s: f"{in_pandas(s, _READ_HTML)} converts it (pip install lxml)",
    ),
)


def _lines_of(head: bytes) -> list[str]:
    return head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines()


def refuse_text(source: Source, head: bytes) -> None:
    """Raises UserError for a text in such a format, which its first lines show."""
    lines = [line for line in _lines_of(head)[:1000] if line.strip()]
    yaml = lines and source.suffix in (".yml", ".yaml")
    if yaml and not any(known.is_it(lines) for known in KNOWN if "Rasa" in known.name):
        convert = filtered(source, python(_YAML), ".json")
        raise UserError(f"{source.name}: YAML: not read; {convert} converts it")
    if len(lines) < FEW and not (lines and lines[0].lstrip().startswith(("<", "["))):
        return
    for known in KNOWN:
        if known.is_it(lines):
            raise UserError(f"{source.name}: {known.name}: not read; {known.fix(source)}")
