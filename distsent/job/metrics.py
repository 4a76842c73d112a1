"""The metrics that each `data.task` has for `eval.metric`, and which of them is better lower."""

METRICS = {
    "single_label": ("accuracy", "f1", "f1_macro", "precision", "recall", "loss"),
    "multi_label": (
        "f1_micro", "f1_macro", "f1_weighted", "f1_samples", "subset_accuracy", "map", "auc_macro",
        "loss",
    ),
    "regression": ("mae", "rmse", "r2", "pearson", "spearman", "loss"),
}  # fmt: skip
# For all others, more is better
LOWER_IS_BETTER = frozenset({"loss", "mae", "rmse"})
ALL = tuple(dict.fromkeys(metric for metrics in METRICS.values() for metric in metrics))
