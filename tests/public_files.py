"""Small imitations of public datasets in delimited text: how each is written, and what it says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WORDS = ("dull", "bright", "slow", "warm", "cold", "flat", "round", "quick")
MORE = range(40)


def sentence(i: int) -> str:
    """A text without delimiters, different for each of 64 numbers."""
    return f"the plot was {WORDS[i % 8]} and the cast {WORDS[i // 8 % 8]}"


def lines(form: str, labels: str = "0 1", end: str = "\n", rows: range = MORE) -> str:
    """A line for each row: `form` with {text}, {label} and {i}."""
    names = labels.split()
    return "".join(
        form.format(text=sentence(i), label=names[i % len(names)], i=i) + end for i in rows
    )


@dataclass(frozen=True)
class File:
    """What is in a file, and what reading it gives.

    `rows` and `has`: their number, and some of them (from 1) with some values. `refused`: what the
    error without `keys` says; with them the file is read.
    """

    content: str
    rows: int
    has: dict[int, dict[str, str]]
    refused: str = ""
    keys: dict[str, Any] = field(default_factory=dict)
    said: str = ""
    encoding: str = "utf-8"


def names(*words: str) -> dict[str, Any]:
    return {"names": words}


FILES = {
    "sentiment140.csv": File(
        lines('"{label}","146781{i}","Mon Apr 06 22:19:45 PDT 2009","NO_QUERY","user{i}",'
              '"@user{i} {text}, café"', "0 4"),
        40, {1: {"target": "0", "text": f"@user0 {sentence(0)}, café"}},
        'looks like data ("0" occurs 19 times more',
        {"encoding": "latin-1", **names("target", "id", "date", "flag", "user", "text")},
        "csv, iso8859-1, delimiter ','", "latin-1"),
    "spam.csv": File(
        "v1,v2,,,\r\n" + lines("{label},{text},,,", "ham spam", "\r\n")
        + 'ham,"Wen did you, so £","but, no way",""" it would be",\r\n',
        41, {41: {"v1": "ham", "v2": "Wen did you, so £"}}, "",
        {"encoding": "latin-1"}, "1 row with values in 3 unnamed columns", "latin-1"),
    "labeledTrainData.tsv": File(
        "id\tsentiment\treview\n" + lines('"{i}_8"\t{label}\t"{text}, said \\"I, me\\" <br />"'),
        40, {2: {"id": "1_8", "review": f'{sentence(1)}, said "I, me" <br />'}},
        said="backslash escapes"),
    "msr_paraphrase_train.txt.tsv": File(  # MRPC
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        + lines('{label}\t{i}\t7{i}\t{text}\t"{text}', end="\r\n")
        + '1\t55\t66\t" Amrozi accused " his brother\tHe said "no" and left\r\n',
        41,
        {1: {"#2 String": f'"{sentence(0)}'}, 41: {"#1 String": '" Amrozi accused " his brother'}},
        said="quotes are letters"),
    "qqp.tsv": File(
        "id\tquestion1\tquestion2\tis_duplicate\n" + lines('{i}\t{text}?\tWhat is "{i}"?\t{label}')
        + '90\t"Why" is it so?\t"What?\t0\n',
        41, {41: {"question1": '"Why" is it so?', "question2": '"What?'}},
        said="quotes are letters"),
    "sst2.tsv": File(
        "sentence\tlabel\n" + lines("{text} '' said `` he\t{label}"),
        40, {3: {"sentence": f"{sentence(2)} '' said `` he", "label": "0"}}),
    "cola_in_domain_train.tsv": File(
        lines("gj04\t{label}\t\t{text}.") + 'l-93\t0\t*\t"Quote" is a word.\n',
        41, {1: {"text": f"{sentence(0)}."}, 41: {"mark": "*", "text": '"Quote" is a word.'}},
        "data.names = ", names("source", "label", "mark", "text"), "quotes are letters"),
    "ag_news.csv": File(
        lines('"{label}","{text}","Wall St. \\\\$46 Bears\\, #39;s {text} (AP)"', "3 4 1"),
        40, {1: {"class": "3", "text": f"Wall St. \\\\$46 Bears\\, #39;s {sentence(0)} (AP)"}},
        "looks like data", names("class", "title", "text"), "delimiter ','"),
    "phrasebank.csv": File(
        lines("{text} , it said on 1.5 EUR mn ±.@{label}", "neutral positive")
        + "No , no , no.@neutral\n",
        41, {1: {"text": f"{sentence(0)} , it said on 1.5 EUR mn ±.", "label": "neutral"}},
        "looks like data", {"encoding": "latin-1", **names("text", "label")}, "delimiter '@'",
        "latin-1"),
    "emotions.csv": File(
        lines("i feel {text};{label}", "sadness joy anger"),
        40, {2: {"text": f"i feel {sentence(1)}", "label": "joy"}},
        'data.names = ["text", "label"]', names("text", "label"), "delimiter ';'"),
    "SMSSpamCollection.tsv": File(
        lines("{label}\t{text}... \"Ok\" lar", "ham spam") + 'ham\t"Wah, so cool\n',
        41, {41: {"label": "ham", "text": '"Wah, so cool'}},
        'data.names = ["label", "text"]', names("label", "text"), "quotes are letters"),
    "drugsComTrain.tsv": File(
        "\tdrugName\treview\trating\n"
        + lines('{i}0\tValsartan\t"""It has {text},\r\nno ""side"" effect"""\t{label}', "9.0 1.0"),
        40, {1: {"review": f'"It has {sentence(0)},\r\nno "side" effect"', "rating": "9.0"}},
        said="40 rows"),
    "excel_semicolon.csv": File(
        "Text;Bewertung\r\n" + lines('"{text}; ""schön""";{label}', "gut schlecht", "\r\n"),
        40, {1: {"Text": f'{sentence(0)}; "schön"', "Bewertung": "gut"}}, "not UTF-8",
        {"encoding": "cp1252"}, "delimiter ';'", "cp1252"),
    "excel_unicode.txt.tsv": File(
        "text\tlabel\r\n" + lines('"{text}\n— ""yes"""\t{label}', "a b", "\r\n"),
        40, {1: {"text": f'{sentence(0)}\n— "yes"', "label": "a"}}, encoding="utf-16"),
    "mysql_outfile.tsv": File(
        lines("{i}\t{text}\\\nsecond \\\\ line \\\t\"x\"\t{label}") + "99\tno label\t\\N\n",
        41, {1: {"text": f'{sentence(0)}\nsecond \\ line \t"x"'}, 41: {"label": ""}},
        'data.quoting = "none" and data.escapechar = "\\\\" reads 3 fields in each row',
        {"escapechar": "\\", "quoting": "none", **names("id", "text", "label")}),
    "mysql_enclosed.csv": File(
        lines('{i},"{text}, \\"x\\"\\\n second line","{label}"', "a b") + '99,"no label",\\N\n',
        41, {1: {"text": f'{sentence(0)}, "x"\n second line', "label": "a"}, 41: {"label": ""}},
        "", {"escapechar": "\\", **names("id", "text", "label")}),
    "mysql_crlf.tsv": File(  # it escapes the first character of the line end alone
        lines("{i}\t{text}\nsecond\\\r\nthird\t{label}", end="\r\n") + "9\tso\t\\N\r\n",
        41, {1: {"text": f"{sentence(0)}\nsecond\r\nthird"}, 41: {"label": ""}},
        'data.escapechar = "\\\\" reads 3 fields',
        {"escapechar": "\\", **names("id", "text", "label")}, "is text"),
    "sql_server.tsv": File(
        "text\tlabel\r\n" + lines("{text}\nsecond\t{label}", end="\r\n"),
        40, {1: {"text": f"{sentence(0)}\nsecond", "label": "0"}}, said="alone is text"),
    "postgres_copy.tsv": File(
        lines("{i}\t{text}\\nsecond\\tC:\\\\new\t{label}\t\\N", "a b"),
        40, {1: {"text": f"{sentence(0)}\nsecond\tC:\\new", "label": "a", "note": ""}},
        "looks like data", names("id", "text", "label", "note"), "escape as in databases"),
    "imdb_basics.tsv": File(  # nulls alone
        "text\tlabel\tend\n" + lines("{text} AC\\DC\t{label}\t\\N"),
        40, {1: {"text": f"{sentence(0)} AC\\DC", "end": "\\N"}}, said="40 rows with the field"),
    "automl.csv": File(
        lines("TRAIN,{text},{label}", "a b") + "TEST,so,a\n", 41, {41: {"split": "TEST"}},
        'data.names = ["split", "text", "label"]', names("split", "text", "label")),
    "pandas_index.csv": File(
        ",text,label\n" + lines('{i},"{text}, ""so""",{label}', "pos neg"),
        40, {3: {"text": f'{sentence(2)}, "so"', "label": "pos"}}),
    "pandas_nonnumeric.csv": File(
        '"text","label"\n' + lines('"{text}",{label}'), 40,
        {1: {"text": sentence(0), "label": "0"}}),
    "r_table.csv": File(
        '"text","label"\n' + lines('"{i}","{text} ""x""","{label}"', rows=range(1, 41)),
        40, {1: {"text": f'{sentence(1)} "x"', "label": "1"}}, said="begin with their number"),
    "trailing.csv": File(
        "text;label\n" + lines("{text};{label};"),
        40, {2: {"text": sentence(1), "label": "1"}}, said="end with a delimiter"),
    "spaced.csv": File(
        '"text", "label"\n' + lines('"{text}, so", "{label}"'),
        40, {1: {"text": f"{sentence(0)}, so", "label": "0"}}, said="delimiter ', '"),
    "joined.csv": File(
        "text,label\n" + lines("{text},{label}") + "text,label\n" + lines("{text}!,{label}"),
        0, {}, "joined.csv, row 41 (line 42): repeats the header"),
    "named_header.csv": File(
        "sentence,y\n" + lines("{text},{label}"), 40, {1: {"text": sentence(0), "label": "0"}},
        "", {"header": True, **names("text", "label")}),
    "names_beside_header.csv": File(
        "sentence,y\n" + lines("{text},{label}"), 0, {}, "looks like a header",
        names("text", "label")),
    "positions.csv": File(
        lines("{text},{label}"), 40, {1: {"0": sentence(0), "1": "0"}}, "looks like data",
        {"header": False}),
    "hive.csv": File(
        lines("{text}\x01{label}"), 40, {1: {"text": sentence(0), "label": "0"}}, "looks like data",
        names("text", "label")),
    "two_marks.csv": File(
        "text::label\n" + lines('"{text}: :", he said::{label}'),
        40, {1: {"text": f'"{sentence(0)}: :", he said', "label": "0"}} , "", {"delimiter": "::"}),
    "apostrophes.csv": File(
        "text,label\n" + lines("'{text}, it''s',{label}"),
        40, {1: {"text": f"{sentence(0)}, it's", "label": "0"}}, "", {"quoting": "'"}),
    "10kGNAD.csv": File(  # quotes that few have, where there is need
        lines("{label};'{text}; so''s a \"quote\"'", "Web Sport") + "Web;it is \"so\n",
        41, {1: {"label": "Web", "text": f"{sentence(0)}; so's a \"quote\""}},
        """data.quoting = "'" reads 2 fields in each row""",
        {"quoting": "'", **names("label", "text")}),
    "toutiao_cat_data.txt": File(
        lines("65{i}_!_101_!_{label}_!_{text}_!_", "news_car news_edu")
        + "9_!_1_!_c_!_So_!_a,b\n",
        41, {2: {"label": "news_edu", "text": sentence(1)}, 41: {"words": "a,b"}},
        'data.delimiter = "_!_" reads 5 fields in each row',
        {"delimiter": "_!_", **names("id", "code", "label", "text", "words")}),
    "movie_lines.txt": File(
        lines("L{i} +++$+++ {label} +++$+++ {text} (he said).", "u0 u2")
        + "L +++$+++ u +++$+++ a,b\n",
        41, {1: {"text": f"{sentence(0)} (he said).", "user": "u0"}},
        'data.delimiter = " +++$+++ " reads 3 fields',
        {"delimiter": " +++$+++ ", **names("id", "user", "text")}),
    "parallel.csv": File(
        lines("{text} ||| {label}"), 40, {1: {"text": sentence(0), "label": "0"}},
        "looks like data", names("text", "label"), "delimiter ' ||| '"),
    "excel_sep.csv": File(
        "\ufeffsep=;\r\ntext;label\r\n" + lines('"{text}; so";{label}', end="\r\n"),
        40, {1: {"text": f"{sentence(0)}; so", "label": "0"}}, said="delimiter ';', 40 rows"),
    "r_write_table.txt": File(
        '"text" "label"\n' + lines('"{i}" "{text} \\"x\\"" "{label}"', rows=range(1, 41)),
        40, {1: {"text": f'{sentence(1)} "x"', "label": "1"}},
        'data.delimiter = " " reads 3 fields', {"delimiter": " "}, "begin with their number"),
    "snowflake.csv": File(
        lines("{i},{text},{label},\\N", "a b") + "40,yes\\, so,a,\\N\n",
        41, {41: {"text": "yes, so", "note": ""}},
        'data.escapechar = "\\\\" reads 4 fields',
        {"escapechar": "\\", **names("id", "text", "label", "note")}),
    "weka.csv": File(
        "text,class\n" + lines("'{text}, it\\'s',{label}", "a b"),
        40, {1: {"text": f"{sentence(0)}, it's", "class": "a"}},
        """data.quoting = "'" and data.escapechar = "\\\\" reads 2 fields""",
        {"quoting": "'", "escapechar": "\\"}),
    "truncated.csv": File(
        "text,label\n" + lines('"{text}, so",{label}') + '"cut off here, a',
        0, {}, "row 41 (line 42): a quote is never closed"),
    "stray_quote.csv": File(
        "text,label\n" + lines('"{text}, so",{label}') + '"not "escaped", so",1\n',
        0, {}, "row 41 (line 42): text behind a closing quote"),
    "unescaped.csv": File(  # quoted only where there is need, and one row is damaged
        "text,label\n" + lines("{text},{label}") + '"he said ""so""",1\n"open,0\n',
        0, {}, "row 42 (line 43): a quote is never closed"),
}  # fmt: skip
