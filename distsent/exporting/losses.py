"""What an export changes: scores per label, and the texts whose logits differ most."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from distsent.data.tokens.store import Tokens
from distsent.exporting.gate import Rows
from distsent.reporting.markdown import markdown_table, titles

SHOWN = 10  # texts
QUOTED = 60  # characters of each
NOTABLE = 0.05  # of the F1 of a label
PART = {"single_label": "f1", "multi_label": "f1", "regression": "rmse"}


def table(rows: Rows, tokens: Tokens | None = None, tokenizer: Any = None) -> str:
    """A markdown table of each label; with `tokens`, another of the most different texts."""
    key = PART[rows.task.name]
    head = [titles(key)[0], f"{titles(key)[0]} exported"]
    cells = [
        [name, f"{agreement:.4f}", f"{before:.4f}", f"{after:.4f}"]
        for name, agreement, before, after in _per_part(rows)
    ]
    text = markdown_table([rows.task.parts[0].removeprefix("per_"), "agreement", *head], cells)
    if tokens is None:
        return text
    order = np.argsort(-rows.distance(), kind="stable")[:SHOWN]
    answers = [rows.task.answers(x[order]) for x in (rows.reference, rows.exported)]
    worst = [
        [_shown(a), _shown(b), _text(tokens[int(row)], tokenizer)]
        for row, a, b in zip(order, *answers, strict=True)
    ]
    return f"{text}\n{markdown_table(['model', 'export', 'text (most different first)'], worst)}"


def lines(rows: Rows) -> list[str]:
    """A line about each label that the export finds notably worse, though its check passed."""
    if rows.task.name == "regression":
        return []
    return [
        f"F1 of {name}: {before:.4f} -> {after:.4f}"
        for name, _, before, after in _per_part(rows)
        if before - after > NOTABLE
    ]


def _per_part(rows: Rows) -> Iterator[tuple[str, float, float, float]]:
    """(name, agreement, score of the model, of the export) of each label or column."""
    task, agree, found = rows.task, rows.agree(), []
    for logits in (rows.reference, rows.exported):
        counts, finite = task.no_counts(), np.nan_to_num(logits)
        task.count(counts, finite, rows.labels)
        scores = task.scores(counts, 0.0, finite, rows.labels)
        found.append(scores[task.parts[0]])
    for i, name in enumerate(task.names):
        same = agree[:, i] if agree.shape[1] > 1 or len(task.names) == 1 else agree[:, 0]
        if task.name == "single_label":
            same = same[np.asarray(rows.labels) == i]
        share = float(same.mean()) if len(same) else float("nan")
        yield name, share, *(one[name][PART[task.name]] for one in found)


def _shown(answer: dict[str, Any]) -> str:
    """What `predict` would say, in few characters."""
    if "label" in answer:
        return f"{answer['label']} {answer['score']:.3f}"
    if "labels" in answer:
        return ", ".join(f"{name} {answer['scores'][name]:.3f}" for name in answer["labels"]) or "-"
    values = answer.get("values", {"": answer.get("value")})
    return ", ".join(f"{name} {value:.4g}".strip() for name, value in values.items())


def _text(ids: np.ndarray, tokenizer: Any) -> str:
    text = " ".join(tokenizer.decode(ids.tolist(), skip_special_tokens=True).split())
    return text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}..."
