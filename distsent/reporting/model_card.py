"""The model card: model/README.md in Hugging Face's format, made from the run folder alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distsent.evaluation.tasks.task import Task
from distsent.job.keys import to_toml_value
from distsent.job.known_datasets import KNOWN_DATASETS
from distsent.job.rules import looks_local, public_name
from distsent.job.template import parse_template
from distsent.reporting import confidence, plots
from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.markdown import markdown_table, titles
from distsent.reporting.tasks.choose import report_of
from distsent.runtime.log import duration
from distsent.runtime.run_folder import read_json, write_text

TASK = "text-classification"
PATHS = ("source", "train", "validation", "test", "labels", "name")  # keys; others are texts
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
            figure = plots.plot_predictions(run, split, f"{run.name}, {split}")
            name = f"{report_of(run.task).picture_name}-{split}.png"
            plots.save_figure(figure, run.folder.model / name)
        if reliability := plots.plot_reliability(run):
            plots.save_figure(reliability, run.folder.model / "reliability.png")
    write_text(run.folder.card, card_text(run, drawn))


def card_text(run: FinishedRun, drawn: bool) -> str:
    """The card as markdown. `drawn`: whether its pictures are in the same folder."""
    from huggingface_hub import ModelCard
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"g": "{:g}".format, "thousands": "{:,}".format, "duration": duration}
    environment.filters["repr"] = repr
    template = run.job["data"].get("template")  # runs of older versions have no such key
    names = parse_template(template).names if template else ()
    text = Path(__file__).with_name("model_card.md").read_text(encoding="utf-8")
    body = environment.from_string(text).render(
        _tables(run),
        report=report_of(run.task),
        curve=titles(run.task.main[0])[0],
        drawn=drawn,
        result=run.result,
        confidence=confidence,
        reliable=plots.has_reliability(run),
        job_toml=_job_toml(run.job),
        dataset=_dataset(run),
        id2label=dict(enumerate(run.labels)),
        label2id={name: i for i, name in enumerate(run.labels)},
        long_texts=LONG_TEXTS,
        template=template,
        fields=", ".join(f'{name}="..."' for name in names),
        pad_token_id=(read_json(run.folder.model / "config.json") or {}).get("pad_token_id"),
        on_hub=_on_hub,
        public_name=public_name,
    )
    return str(ModelCard(f"---\n{_metadata(run).to_yaml()}\n---\n\n{body}"))


def _metadata(run: FinishedRun) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    data, model, dataset = run.job["data"], run.job["model"]["name"], _dataset(run)
    adapter, results = run.job["adapter"]["kind"], []
    for split, scores in run.result["eval"].items():
        for key in (*run.task.followed, "loss"):
            if not math.isfinite(scores[key]):
                continue
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
        metrics=list(run.task.followed),
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
    task, final, part_tables = run.task, [], {}
    key, *part_scores = task.parts
    part = key.removeprefix("per_")
    for split, scores in run.result["eval"].items():
        kept = run.predictions(split)
        found = (None, None) if kept is None else (kept.logits, kept.labels)
        final.append([split, f"{scores['n']:,}", *_with_intervals(task, scores, *found)])
        counted = ["rows"] if part != "column" else []  # each column has a number for each row
        rows = [
            [name, *_decimals(one, *part_scores), *(f"{one['n']:,}" for _ in counted)]
            for name, one in scores[key].items()
        ]
        part_tables[split] = markdown_table([part, *titles(*part_scores), *counted], rows)
    history, trained = run.result["history"], ["train_loss"]
    if task.right_score:
        trained.append(f"train_{task.right_score}")
    watched = history[-1]["split"] if history else "validation"
    keys = (*trained, "loss", *task.followed)
    evaluations = [
        [f"{one['epoch']:.2f}", f"{one['step']:,}", *_decimals(one, *keys)] for one in history
    ]
    training = titles(*(key.removeprefix("train_") for key in trained))
    columns = ["epoch", "step", *(f"training {name}" for name in training), f"{watched} loss"]
    return {
        "scores": markdown_table(["split", "rows", *titles(*task.ordered)], final),
        "part": part,
        "part_scores": part_tables,
        "watched": watched,
        "evaluations": markdown_table([*columns, *titles(*task.followed)], evaluations),
    }


def _with_intervals(
    task: Task, scores: Mapping[str, Any], logits_nC: np.ndarray | None, labels: np.ndarray | None
) -> list[str]:
    """The scores of a split in the task's order, with those intervals that there are."""
    intervals = task.intervals(scores, logits_nC, labels)
    cells = []
    for key in task.ordered:
        low, high = intervals.get(key, (None, None))
        cells += _decimals(scores, key)
        if low is not None:
            cells[-1] += f" [{low:.4f}, {high:.4f}]"
    return cells


def _decimals(scores: Mapping[str, Any], *keys: str) -> list[str]:
    return [f"{scores[key]:.4f}" for key in keys]


def _job_toml(job: Mapping[str, Any]) -> str:
    """The job as TOML, without keys and paths that concern only the machine it ran on."""
    blocks = []
    for section, keys in job.items():
        lines = [f"[{section}]"]
        for key, value in keys.items() if section != "run" else ():
            if value is not None and key != "store":
                if key in PATHS and isinstance(value, str) and looks_local(value):
                    value = f"./{public_name(value)}"
                lines.append(f"{key} = {to_toml_value(value)}")
        if len(lines) > 1:
            blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)
