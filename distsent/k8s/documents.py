"""YAML manifests as data that remembers its lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FieldPath = tuple[str | int, ...]  # the keys and indices that lead to a value in a manifest


class Finding(NamedTuple):
    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message} [{self.rule}]"


class Node:
    """A value in a manifest; the root is the manifest itself.

    A missing value is a Node, too: it is false, has no items, and its line is the parent's.
    """

    def __init__(self, file: str, line: int, path: FieldPath, root: Node | None) -> None:
        self.file, self.line, self.path, self.place = file, line, path, f"{file}:{line}"
        self.root = self if root is None else root
        self.value: Any = None
        self.items: dict[str | int, Node] = {}
        self.kind = self.namespace = self.name = ""  # those of the root are set

    def __getitem__(self, key: str | int) -> Node:
        missing = Node(self.file, self.line, (*self.path, key), self.root)
        return self.items.get(key, missing)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.items.values() if isinstance(self.value, list) else ())

    def __bool__(self) -> bool:
        return bool(self.value)

    def at(self, *path: str | int) -> Node:
        """The value at the end of a longer path."""
        return reduce(getitem, path, self)

    def below(self, path: str) -> Node:
        """The value at the end of a path in one text, with blanks between its keys."""
        return self.at(*(int(key) if key.isdigit() else key for key in path.split()))

    def named(self, *keys: str) -> Iterator[Node]:
        """All values below with one of these keys."""
        for key, item in self.items.items():
            if key in keys:
                yield item
            yield from item.named(*keys)

    @property
    def mapping(self) -> dict[Any, Any]:
        return self.value if isinstance(self.value, dict) else {}

    @property
    def text(self) -> str:
        return "" if self.value is None else str(self.value)

    def number(self, default: int) -> int:
        """A whole number, also one in quotes; `default` for anything else."""
        return int(self.text) if self.text.isdigit() else default

    def finding(self, rule: str, message: str) -> Finding:
        return Finding(self.file, self.line, rule, message)


Problem = tuple[str, Node, str]  # rule, the value that breaks it, and what is wrong with it


class Reader:
    """Reads YAML texts: their manifests, and what is wrong with them as YAML."""

    def __init__(self) -> None:
        self.manifests: list[Node] = []
        self.findings: list[Finding] = []

    def read(self, text: str, file: str) -> None:
        self.file, self.loader = file, yaml.SafeLoader(text)
        try:
            while self.loader.check_node():
                node = self.construct(self.loader.get_node(), 0, (), None)
                if isinstance(node.value, dict):
                    node.kind, metadata = node["kind"].text, node["metadata"]
                    node.namespace, node.name = metadata["namespace"].text, metadata["name"].text
                    self.manifests.append(node)
                elif node.value is not None:
                    self.report(node.line, "a manifest is a mapping with apiVersion and kind")
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            self.report(mark.line + 1 if mark else 1, str(getattr(error, "problem", error)))

    def report(self, line: int, message: str) -> None:
        self.findings.append(Finding(self.file, line, "yaml", message))

    def construct(self, source: yaml.Node, line: int, path: FieldPath, root: Node | None) -> Node:
        """The data of a YAML node. A field that is null counts as missing."""
        node = Node(self.file, line or source.start_mark.line + 1, path, root)
        if isinstance(source, yaml.SequenceNode):
            for index, item in enumerate(source.value):
                node.items[index] = self.construct(item, 0, (*path, index), node.root)
            node.value = [item.value for item in node.items.values()]
        elif isinstance(source, yaml.MappingNode):
            self.loader.flatten_mapping(source)
            for key_source, value_source in source.value:
                key, line = self.loader.construct_object(key_source), key_source.start_mark.line + 1
                if not isinstance(key, str):
                    self.report(line, f"the key {key!r} is not text: put it in quotes")
                if str(key) in node.items:
                    self.report(line, f"{key} appears a second time; only the last one counts")
                child = self.construct(value_source, line, (*path, str(key)), node.root)
                node.items[str(key)] = child
            node.items = {k: item for k, item in node.items.items() if item.value is not None}
            node.value = {key: item.value for key, item in node.items.items()}
        else:
            node.value = self.loader.construct_object(source)
        return node


def read_table(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8")))


def fill(table: Any, words: dict[str, Any]) -> Any:
    """A table's data with its words in capitals replaced: whole texts by data, parts by text."""
    text = json.dumps(table)
    for word, new in words.items():
        data = json.dumps(new)
        text = text.replace(f'"{word}"', data).replace(word, data[1:-1])
    return json.loads(text)


def manifest_files(path: Path) -> list[Path]:
    """The files that `kubectl apply -f` would read."""
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in (".yaml", ".yml") and p.is_file())
