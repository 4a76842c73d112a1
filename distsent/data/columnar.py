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
        feature = features[column]
        return list(feature["names"]) if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None


def plain_schema(schema: pa.Schema, names: Mapping[str, str]) -> pa.Schema:
    """The schema of the columns `names` (new name: old name), as plain types."""
    return pa.schema([(new, _plain(schema.field(old).type)) for new, old in names.items()])


def plain_batches(
    batches: Iterable[Any], names: Mapping[str, str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The batches with the columns of `schema`, which is a `plain_schema`."""
    for batch in batches:
        columns = [batch.column(names[field.name]).cast(field.type) for field in schema]
        yield pa.record_batch(columns, schema=schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    """The same values without dictionaries and views."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return kind
