"""The model card: model/README.md in Hugging Face's format, made from the run folder alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distsent.evaluation.calibration import BINS
from distsent.evaluation.tasks.single_label import score_intervals
from distsent.job.keys import to_toml_value
from distsent.job.known_datasets import KNOWN_DATASETS
from distsent.job.rules import looks_local, public_name
from distsent.reporting import plots
from distsent.reporting.comparison import markdown_table
from distsent.reporting.confidence import format_calibration, format_decisions
from distsent.reporting.finished_run import FinishedRun
from distsent.runtime.log import duration
from distsent.runtime.run_folder import write_text

TASK = "text-classification"
LONG_TEXTS = {
    "cut": "Texts are cut at {} tokens.",
    "head_tail": "Of texts with more than {} tokens, the beginning and the end are read.",
    "windows": "Texts with more than {} tokens are read in overlapping windows of that length; "
    "the logits of a text are the mean of its windows' logits.",
}


def write_model_card(run: FinishedRun) -> None:
    """Write the card, and its pictures if matplotlib is installed."""
    drawn = plots.available()
    if drawn:
        plots.save_figure(plots.plot_curves([run]), run.folder.model / "curves.png")
        for split in run.result["eval"]:
            figure = plots.plot_confusion(run, split, f"{run.name}, {split}")
            plots.save_figure(figure, run.folder.model / f"confusion-{split}.png")
        if reliability := plots.plot_reliability(run):
            plots.save_figure(reliability, run.folder.model / "reliability.png")
    write_text(run.folder.card, card_text(run, drawn))


def card_text(run: FinishedRun, drawn: bool) -> str:
    """The card as markdown. `drawn`: whether its pictures are in the same folder."""
    from huggingface_hub import ModelCard
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"g": "{:g}".format, "thousands": "{:,}".format, "duration": duration}
    text = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    body = environment.from_string(text).render(
        _tables(run),
        drawn=drawn,
        result=run.result,
        calibration=format_calibration([run.result]),
        bins=BINS,
        reliable=plots.has_reliability(run),
        decisions=format_decisions([run.result]),
        job_toml=_job_toml(run.job),
        dataset=_dataset(run),
        id2label=dict(enumerate(run.labels)),
        label2id={name: i for i, name in enumerate(run.labels)},
        long_texts=LONG_TEXTS,
        on_hub=_on_hub,
        public_name=public_name,
    )
    return str(ModelCard(f"---\n{_metadata(run).to_yaml()}\n---\n\n{body}"))


def _metadata(run: FinishedRun) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    data, model, dataset = run.job["data"], run.job["model"]["name"], _dataset(run)
    adapter, results = run.job["adapter"]["kind"], []
    for split, scores in run.result["eval"].items():
        for key in ("accuracy", "f1", "precision", "recall", "loss"):
            one = EvalResult(TASK, dataset, dataset, key, round(scores[key], 6))
            one.task_name, one.metric_name = "Text classification", key.capitalize()
            one.dataset_config, one.dataset_revision = data["config"], data["revision"]
            one.dataset_split = split
            results.append(one)
    return ModelCardData(
        base_model=model if _on_hub(model) else None,
        datasets=[dataset] if _on_hub(dataset) else None,
        library_name="transformers",
        pipeline_tag=TASK,
        metrics=["accuracy", "f1", "precision", "recall"],
        model_name=run.name,
        tags=[TASK, "distsent", "horovod", *([] if adapter == "none" else [adapter, "peft"])],
        eval_results=results,
    )


def _on_hub(name: str) -> bool:
    return name != "demo" and not looks_local(name)


def _dataset(run: FinishedRun) -> str:
    source = str(run.job["data"]["source"])
    if source in KNOWN_DATASETS:
        return KNOWN_DATASETS[source].hub_id
    return f"./{public_name(source)}" if looks_local(source) else source


def _tables(run: FinishedRun) -> dict[str, Any]:
    """Final scores, scores per class, and the scores at each evaluation during training."""
    final, class_tables = [], {}
    for split, scores in run.result["eval"].items():
        intervals = score_intervals(scores["confusion"]).items()
        cells = [f"{scores[key]:.4f} [{low:.4f}, {high:.4f}]" for key, (low, high) in intervals]
        cells += _decimals(scores, "precision", "recall", "loss")
        final.append([split, f"{scores['n']:,}", *cells])
        rows = [
            [name, *_decimals(one, "precision", "recall", "f1"), f"{one['n']:,}"]
            for name, one in scores["per_class"].items()
        ]
        class_tables[split] = markdown_table(["class", "precision", "recall", "F1", "rows"], rows)
    head = ["split", "rows", "accuracy", "F1", "F1 macro", "precision", "recall", "loss"]
    history, keys = run.result["history"], ("loss", "accuracy", "f1", "precision", "recall")
    watched = history[-1]["split"] if history else "validation"
    evaluations = []
    for one in history:
        scores = _decimals(one, "train_loss", "train_accuracy", *keys)
        evaluations.append([f"{one['epoch']:.2f}", f"{one['step']:,}", *scores])
    columns = ["epoch", "step", "training loss", "training accuracy", f"{watched} loss"]
    columns += ["accuracy", "F1", "precision", "recall"]
    return {
        "scores": markdown_table(head, final),
        "class_scores": class_tables,
        "watched": watched,
        "evaluations": markdown_table(columns, evaluations),
    }


def _decimals(scores: Mapping[str, Any], *keys: str) -> list[str]:
    return [f"{scores[key]:.4f}" for key in keys]


def _job_toml(job: Mapping[str, Any]) -> str:
    """The job as TOML, without keys and paths that concern only the machine it ran on."""
    blocks = []
    for section, keys in job.items():
        lines = [f"[{section}]"]
        for key, value in keys.items() if section != "run" else ():
            if value is not None and key != "store":
                if isinstance(value, str) and looks_local(value):
                    value = f"./{public_name(value)}"
                lines.append(f"{key} = {to_toml_value(value)}")
        if len(lines) > 1:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
