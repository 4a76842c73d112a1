"""Columns of files that have types of their own (parquet, arrow), as tables of a job's columns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa


def class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """The names of the classes 0, 1, 2, ... that datasets has noted in a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature, kind = features[column], schema.field(column).type
        # A list of classes: Sequence, List, or a list with one feature, by version of datasets
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        while pa.types.is_dictionary(kind) or is_list(kind):
            kind = kind.value_type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return None  # a note from before the column was rewritten
        return [*map(str, feature["names"])] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists."""
    t = pa.types
    return bool(t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind))


def plain_schema(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    """The schema of the columns `names` (new name: old name), as plain types."""
    return pa.schema([(new, _plain(schema.field(old).type)) for new, old in names.items()])


def plain_batches(
    batches: Iterable[Any], names: Mapping[str, str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The batches with the columns of `schema`, which is a `plain_schema`."""
    for batch in batches:
        columns = [_cast(batch.column(names[field.name]), field.type) for field in schema]
        yield pa.record_batch(columns, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The same values without dictionaries and views. Spark writes texts as bytes."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _plain(kind.value_type)
        return kind if inner == kind.value_type else pa.list_(inner)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.string()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.string() if pa.types.is_binary(kind) else pa.large_string()
    return kind


def _cast(column: Any, kind: pa.DataType) -> Any:
    """The column as this plain type. Bytes become a text unseen: data/checks.py finds bad ones."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_binary_view(column.type):
        column = column.cast(pa.binary())
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return column.view(kind)
    return column.cast(kind)
