"""The keys of the dataset."""

from collections.abc import Mapping
from dataclasses import dataclass

from distsent.job.keys import (
    character,
    choice,
    either,
    encoding,
    integer,
    key,
    list_of,
    matching,
    number,
    table_of,
)
from distsent.job.values import (
    boolean,
    count,
    files,
    fraction,
    lines,
    position,
    text,
    words,
)

# fmt: off


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """The dataset."""

    source: str = key("demo", text, "`demo`, `imdb`, `emotion`, `tweets`, a hub id or a local path")
    config: str | None = key(None, text, "configuration of a hub dataset",
        unset="the dataset's own", example="split")
    revision: str | None = key(None, text, "revision of a hub dataset", unset="the newest",
        example="main")
    train: str | tuple[str, ...] | Mapping[str, str] | None = key(None, files,
        "training files or patterns, in data.source if it is a folder; splits of a hub dataset",
        unset="found by name", example="train*.csv")
    validation: str | tuple[str, ...] | Mapping[str, str] | None = key(None, files,
        "the same for validation", unset="found by name", example="dev.csv")
    test: str | tuple[str, ...] | Mapping[str, str] | None = key(None, files,
        "the same for test", unset="found by name", example="test.csv")
    text_column: str = key("text", text, "column of the text")
    pair_column: str | None = key(None, text, "column of a second text", unset="single texts",
        example="question")
    label_column: str = key("label", text, "column of the label")
    text_position: int | None = key(None, position, "column of the text, counted from 0",
        unset="text_column", example=0)
    pair_position: int | None = key(None, position, "column of a second text, counted from 0",
        unset="pair_column", example=1)
    label_position: int | None = key(None, position, "column of the label, counted from 0",
        unset="label_column", example=1)
    split_column: str | None = key(None, text,
        "column that says which split each row is of: `train`, `dev`, `test`, ...",
        unset="files are of one split", example="partition")
    task: str = key("single_label", choice("single_label", "multi_label", "regression"),
        "what a text is labeled with: one class, any number of classes, or numbers")
    label_columns: tuple[str, ...] | None = key(None,
        list_of(text, "a list of distinct columns", distinct=True),
        "one column per class, with 0 or 1 (`multi_label`), or per number (`regression`)",
        unset="label_column", example=("anger", "joy"))
    label_delimiter: str | None = key(None, character(most=16),
        "text between the labels of a row, where these are written as text", unset="lists",
        example=",")
    allow_empty_labels: bool = key(False, boolean,
        "whether a row may have an empty list of labels (an empty text, with label_delimiter)")
    labels: tuple[str, ...] | Mapping[str, str] | str | None = key(None,
        either(list_of(text, "a list of two or more distinct class names", least=2, distinct=True),
               either(table_of(either(text, number()),
                               "a table from values to distinct names or numbers"),
                      matching(r".*\S.*", "a file of class names"))),
        "class names in the order of their values, a table that names the values (`regression`: "
        "the number of each), or a file of either", unset="read from the data",
        example=("negative", "positive"))
    fold_labels: str | bool = key("auto", choice("auto", True, False),
        "labels that differ in white space, case, Unicode form or leading zeros alone are: `true`: "
        "one class; `false`: different classes; `auto`: an error")
    drop_labels: tuple[str, ...] | None = key(None, list_of(text, "a list of labels"),
        "labels whose rows are left out, as the data has them or by the names of their classes",
        unset="none", example=("-",))
    format: str = key("auto",
        choice("auto", "csv", "lines", "label_text", "fasttext", "json", "parquet", "arrow",
               "excel"),
        "format of the files; `auto`: by name and content; `label_text`: label, blank, text")
    names: tuple[str, ...] | None = key(None, words, "column names of files without a header",
        unset="the first row", example=("label", "text"))
    header: str | bool = key("auto", choice("auto", True, False),
        "whether the first row is a header")
    delimiter: str = key("auto", character("auto", most=16), "text between the columns of a row",
        example=";")
    quoting: str = key("auto", character("auto", "csv", "none"),
        "`csv`: fields may stand in double quotes; `none`: quotes are letters; or another quote")
    escapechar: str | None = key(None, character(), "character before an escaped quote",
        unset="detected", example="\\")
    encoding: str = key("auto", encoding("auto"), "encoding of text files", example="cp1252")
    encoding_errors: str = key("strict", choice("strict", "replace"),
        "`replace`: U+FFFD for bytes that are not in the encoding")
    compression: str = key("auto", choice("auto", "none", "gzip", "bz2", "xz", "zstd", "zip"),
        "compression of the files; `auto`: by content")
    na_values: tuple[str, ...] | None = key(None, list_of(text, "a list of texts", least=0),
        "texts that mean that there is none, as `NULL`; `[]`: none does",
        unset="an error or a line names them", example=("NULL",))
    sheet_name: str | None = key(None, text, "sheet of a spreadsheet", unset="the only one",
        example="Sheet1")
    max_length: int = key(64, integer(">= 4"),
        "maximum tokens that an encoder reads at once, including special tokens", pretrained=512)
    long: str = key("cut", choice("cut", "head_tail", "windows"),
        "what is read of longer texts: `cut`: the beginning; `head_tail`: the beginning, for a "
        "quarter of the tokens, and the end; `windows`: all, in overlapping windows whose logits "
        "are averaged")
    window_overlap: int | None = key(None, position, "tokens that neighboring windows share",
        unset="a quarter of a window", example=32)
    template: str | None = key(None, lines,
        "text that is put around each text, in place of `{text}`; `{pair}` is the second of a pair",
        unset="texts alone", example="Review: {text}")
    max_rows: int | None = key(None, count, "training rows to keep, drawn with the seed",
        unset="all", example=10000)
    max_eval_rows: int | None = key(None, count, "rows to keep in each evaluation split",
        unset="all", example=2000)
    validation_fraction: float = key(0.0, fraction,
        "stratified share of the training rows for a missing validation split")
    test_fraction: float = key(0.0, fraction,
        "stratified share of the training rows for a missing test split")
    pool_splits: bool = key(False, boolean,
        "pool the rows of all splits and split them again by the two fractions")
    drop_bad_rows: bool = key(False, boolean, "skip rows without text or label instead of stopping")
    store: str | None = key(None, text, "folder of the token stores", unset="`.tokens` in run.dir",
        example="tokens")

    @property
    def has_pairs(self) -> bool:
        """Whether each row has two texts."""
        return self.pair_column is not None or self.pair_position is not None
# fmt: on
