"""YAML manifests as data that remembers its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

FieldPath = tuple[str | int, ...]  # the keys and indices that lead to a value in a document


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong in a manifest, and its place."""

    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message} [{self.rule}]"


@dataclass(frozen=True)
class Node:
    """A value in a document. A missing value is a Node, too: it is false and has no items."""

    document: Document
    path: FieldPath
    value: Any

    def __getitem__(self, key: str | int) -> Node:
        items = dict(enumerate(self.value)) if isinstance(self.value, list) else self.mapping
        return Node(self.document, (*self.path, key), items.get(key))

    def __iter__(self) -> Iterator[Node]:
        """The items of a list."""
        count = len(self.value) if isinstance(self.value, list) else 0
        return (self[index] for index in range(count))

    def __bool__(self) -> bool:
        return bool(self.value)

    def at(self, *path: str | int) -> Node:
        """The value at the end of a longer path."""
        return reduce(getitem, path, self)

    @property
    def mapping(self) -> dict[Any, Any]:
        return self.value if isinstance(self.value, dict) else {}

    @property
    def text(self) -> str:
        return "" if self.value is None else str(self.value)

    def number(self, default: int) -> int:
        """A whole number, also one in quotes; `default` for anything else."""
        return int(self.text) if self.text.isdigit() else default

    @property
    def line(self) -> int:
        """The line of this value, or of the nearest existing value around it."""
        lines = self.document.lines
        known = (self.path[:end] for end in range(len(self.path), -1, -1))
        return next(lines[path] for path in known if path in lines)

    @property
    def place(self) -> str:
        return f"{self.document.file}:{self.line}"

    def finding(self, rule: str, message: str) -> Finding:
        return Finding(self.document.file, self.line, rule, message)


class Document:
    """One manifest."""

    def __init__(self, file: str, data: dict[str, Any], lines: dict[FieldPath, int]) -> None:
        self.file, self.lines = file, lines
        self.root = Node(self, (), data)
        self.kind, self.metadata = self.root["kind"].text, self.root["metadata"]
        self.name, self.namespace = self.metadata["name"].text, self.metadata["namespace"].text

    def at(self, *path: str | int) -> Node:
        return self.root.at(*path)


def parse_manifests(text: str, file: str) -> tuple[list[Document], list[Finding]]:
    """The documents of a YAML text, and what is wrong with it as YAML."""
    documents: list[Document] = []
    findings: list[Finding] = []

    def report(line: int, message: str) -> None:
        findings.append(Finding(file, line, "yaml", message))

    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            lines: dict[FieldPath, int] = {}
            data = construct(loader, node, (), lines, report)
            if isinstance(data, dict):
                documents.append(Document(file, data, lines))
            elif data is not None:
                report(lines[()], "a manifest is a mapping with apiVersion and kind")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        report(mark.line + 1 if mark else 1, str(getattr(error, "problem", None) or error))
    return documents, findings


def construct(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    path: FieldPath,
    lines: dict[FieldPath, int],
    report: Callable[[int, str], None],
) -> Any:
    """The data of a YAML node, its lines into `lines`. Null fields count as missing."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [construct(loader, item, (*path, index), lines, report) for index, item in items]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    loader.flatten_mapping(node)
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = loader.construct_object(key_node), key_node.start_mark.line + 1
        if not isinstance(key, str):
            report(line, f"the key {key!r} is not text: put it in quotes")
        if str(key) in data:
            report(line, f"{key} appears a second time; only the last one counts")
        lines[(*path, str(key))] = line
        data[str(key)] = construct(loader, value_node, (*path, str(key)), lines, report)
    return {key: value for key, value in data.items() if value is not None}


def manifest_files(path: Path) -> list[Path]:
    """The files that `kubectl apply -f` would read."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
