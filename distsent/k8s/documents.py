"""YAML files as data that remembers its lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Where = tuple[str | int, ...]  # the way into a document: keys and indices


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong, and where."""

    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message} [{self.rule}]"


@dataclass
class Document:
    """One manifest."""

    file: str
    data: dict[str, Any]
    lines: dict[Where, int] = field(repr=False)

    @property
    def kind(self) -> str:
        return str(self.data.get("kind", ""))

    @property
    def name(self) -> str:
        return str(self.get("metadata", "name") or "")

    @property
    def namespace(self) -> str:
        return str(self.get("metadata", "namespace") or "")

    def get(self, *where: str | int, default: Any = None) -> Any:
        """The value at the end of the way, or the default where the way breaks off."""
        value: Any = self.data
        for step in where:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return default
        return default if value is None else value

    def line(self, *where: str | int) -> int:
        """The line of that value, or of the nearest thing around it that exists."""
        while where and where not in self.lines:
            where = where[:-1]
        return self.lines.get(where, 1)

    def finding(self, rule: str, message: str, *where: str | int) -> Finding:
        return Finding(self.file, self.line(*where), rule, message)


def read(text: str, file: str) -> tuple[list[Document], list[Finding]]:
    """The documents of a YAML text, and what keeps it from being read."""
    documents: list[Document] = []
    findings: list[Finding] = []
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            lines: dict[Where, int] = {}
            data = build(
                loader,
                node,
                (),
                lines,
                lambda line, message: findings.append(Finding(file, line, "yaml", message)),
            )
            if data is None:
                continue
            if isinstance(data, dict):
                documents.append(Document(file, data, lines))
            else:
                findings.append(
                    Finding(
                        file,
                        node.start_mark.line + 1,
                        "yaml",
                        "a manifest is a mapping, with apiVersion and kind",
                    )
                )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        findings.append(
            Finding(file, mark.line + 1 if mark else 1, "yaml", str(error.problem or error))
        )
    except yaml.YAMLError as error:
        findings.append(Finding(file, 1, "yaml", str(error)))
    finally:
        loader.dispose()
    return documents, findings


def build(
    loader: yaml.SafeLoader, node: yaml.Node, where: Where, lines: dict[Where, int], complain: Any
) -> Any:
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)
        data: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                complain(line, f"the key {key!r} is not text: put it in quotes")
                key = str(key)
            if key in data:
                complain(line, f"{key} stands here a second time; only the last one counts")
            lines[(*where, key)] = line
            data[key] = build(loader, value_node, (*where, key), lines, complain)
        return data
    if isinstance(node, yaml.SequenceNode):
        return [
            build(loader, item, (*where, index), lines, complain)
            for index, item in enumerate(node.value)
        ]
    return loader.construct_object(node)


def files_of(path: Path) -> Iterator[Path]:
    """What `kubectl apply -f` would read of this path."""
    if path.is_dir():
        yield from sorted(
            file for file in path.iterdir() if file.suffix in (".yaml", ".yml") and file.is_file()
        )
    else:
        yield path
