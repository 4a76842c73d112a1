"""Markdown tables, and what their columns call the scores."""

from collections.abc import Sequence

TITLES = {  # of scores that are not called by their key
    "f1": "F1", "f1_macro": "F1 macro", "f1_micro": "F1 micro", "f1_weighted": "F1 weighted",
    "f1_samples": "F1 samples", "subset_accuracy": "subset accuracy", "map": "mAP",
    "auc_macro": "AUC macro", "average_precision": "average precision", "auc": "AUC",
    "mae": "MAE", "rmse": "RMSE", "r2": "R2", "pearson": "Pearson", "spearman": "Spearman",
}  # fmt: skip


def titles(*keys: str) -> list[str]:
    """What columns call these scores."""
    return [TITLES.get(key, key) for key in keys]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns: the first two to the left, the others to the right."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    text = ""
    for row in (cells[0], rule, *cells[1:]):
        pairs = enumerate(zip(row, widths, strict=True))
        padded = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in pairs]
        text += f"| {' | '.join(padded)} |\n"
    return text
