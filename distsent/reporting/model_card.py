"""The model card: model/README.md in Hugging Face's format, made from the run folder alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from distsent.evaluation.intervals import score_intervals
from distsent.job.keys import to_toml_value
from distsent.job.known_datasets import KNOWN_DATASETS
from distsent.job.rules import looks_local, public_name
from distsent.reporting import plots
from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun
from distsent.runtime.log import duration
from distsent.runtime.run_folder import write_text

TASK = "text-classification"
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW"}


def write_model_card(run: FinishedRun) -> None:
    """Write the card, and its pictures if matplotlib is installed."""
    drawn = plots.available()
    if drawn:
        plots.save_figure(plots.plot_curves([run]), run.folder.model / "curves.png")
        for split in run.result["eval"]:
            figure = plots.plot_confusion(run, split, f"{run.name}, {split}")
            plots.save_figure(figure, run.folder.model / f"confusion-{split}.png")
    write_text(run.folder.card, card_text(run, drawn))


def card_text(run: FinishedRun, drawn: bool) -> str:
    """The card as markdown. `drawn`: whether its pictures are in the same folder."""
    from huggingface_hub import ModelCard

    pictures = ["![loss and accuracy over epochs](curves.png)"]
    for split in run.result["eval"]:
        pictures.append(f"![confusion matrix on the {split} split](confusion-{split}.png)")
    body = _template("model_card").substitute(
        _description(run) | _scores(run) | _training(run),
        pictures="\n\n".join(pictures) if drawn else "",
    )
    body = re.sub(r" *\n{3,}", "\n\n", body)  # left by parts that this run does not have
    return str(ModelCard(f"---\n{_metadata(run).to_yaml()}\n---\n\n{body}"))


def _template(name: str) -> Template:
    return Template(Path(__file__).with_name(f"{name}.md").read_text(encoding="utf-8"))


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


def _description(run: FinishedRun) -> dict[str, object]:
    """What the model is, and how to load it."""
    encoder, dataset = str(run.job["model"]["name"]), _dataset(run)
    encoder_link = f"[{encoder}](https://huggingface.co/{encoder})"
    if not _on_hub(encoder):
        encoder_link = f"`{public_name(encoder)}` (a local folder)"
    if encoder == "demo":
        encoder_link = "a small BERT with random weights"
    dataset_link = f"[{dataset}](https://huggingface.co/datasets/{dataset})"
    if not _on_hub(dataset):
        dataset_link = "distsent's demo dataset" if dataset == "demo" else f"`{dataset}`"
    counts, adapter = run.result["parameters"], run.job["adapter"]
    note = use = ""
    if adapter["kind"] != "none":
        frozen = (
            "quantized to 4 bits (NF4), except the head" if adapter["bits"] else "left as they are"
        )
        note = (
            f"Trained were low-rank updates (LoRA, rank {adapter['rank']}, alpha "
            f"{adapter['alpha']:g}) over weights {frozen}. This folder holds the model with the "
            "updates merged in, in float32; `adapter/` holds the updates only."
        )
        names = dict(enumerate(run.labels))
        use = _template("model_card_adapter").substitute(
            encoder=public_name(encoder), id2label=names, label2id={v: k for k, v in names.items()}
        )
        if adapter["bits"]:
            use += (
                "\nThat model differs slightly: this folder holds what was trained, updates over "
                "the encoder in 4 bits."
            )
    return {
        "name": run.name,
        "class_count": len(run.labels),
        "classes": ", ".join(run.labels),
        "encoder": encoder_link,
        "dataset": dataset_link,
        "max_length": run.job["data"]["max_length"],
        "parameters": f"{counts['all']:,}",
        "trained": f"{counts['trained']:,}",
        "adapter": note,
        "adapter_use": use,
        "versions": _bullets(run.result["versions"], " "),
    }


def _scores(run: FinishedRun) -> dict[str, object]:
    """Final scores, scores per class, and the scores at each evaluation during training."""
    final, classes = [], []
    for split, scores in run.result["eval"].items():
        cells = [split, f"{scores['n']:,}"]
        for key, (low, high) in score_intervals(scores["confusion"]).items():
            cells.append(f"{scores[key]:.4f} [{low:.4f}, {high:.4f}]")
        final.append(cells + [f"{scores[key]:.4f}" for key in ("precision", "recall", "loss")])
        per_class = [
            [name, *(f"{one[key]:.4f}" for key in ("precision", "recall", "f1")), f"{one['n']:,}"]
            for name, one in scores["per_class"].items()
        ]
        table = markdown_table(["class", "precision", "recall", "F1", "rows"], per_class)
        classes.append(f"On the {split} split:\n\n{table}")
    head = ["split", "rows", "accuracy", "F1", "F1 macro", "precision", "recall", "loss"]
    history, best = run.result["history"], run.result["best"]
    watched = history[-1]["split"] if history else "validation"
    keys = ("train_loss", "train_accuracy", "loss", "accuracy", "f1", "precision", "recall")
    evaluations = [
        [f"{one['epoch']:.2f}", f"{one['step']:,}", *(f"{one[key]:.4f}" for key in keys)]
        for one in history
    ]
    columns = ["epoch", "step", "training loss", "training accuracy", f"{watched} loss"]
    columns += ["accuracy", "F1", "precision", "recall"]
    chosen = f" The weights are those of step {best['step']}, chosen on the validation split."
    return {
        "scores": markdown_table(head, final),
        "averaging": f"of `{run.labels[1]}`" if len(run.labels) == 2 else "weighted by support",
        "best": chosen if best else "",
        "class_scores": "\n".join(classes),
        "watched": watched,
        "evaluations": markdown_table(columns, evaluations),
    }


def _training(run: FinishedRun) -> dict[str, object]:
    """Hyperparameters, the job, speed and memory."""
    result, train, size = run.result, run.result["train"], run.result["world_size"]
    speed = {
        "training": f"{train['samples_per_second']:,.1f} examples/s, "
        f"{train['tokens_per_second']:,.0f} tokens/s (without padding) on {size} "
        f"worker{'s' * (size > 1)}; {duration(train['seconds'])} for {train['samples']:,} examples"
    }
    for split, scores in result["eval"].items():
        speed[f"evaluating the {split} split"] = f"{scores['samples_per_second']:,.1f} examples/s"
    if train.get("peak_memory_bytes"):
        speed["peak memory per worker"] = f"{train['peak_memory_bytes'] / 2**30:.2f} GiB"
    return {
        "hyperparameters": _bullets(_hyperparameters(run)),
        "job": _job_toml(run.job),
        "throughput": _bullets(speed),
    }


def _hyperparameters(run: FinishedRun) -> dict[str, object]:
    job, result = run.job, run.result
    train, optim, adapter = job["train"], job["optim"], job["adapter"]
    rate, warmup = f"{optim['lr']:g}, {optim['schedule']} schedule", optim["warmup"]
    if warmup:
        rate += f", warm-up {warmup:g} {'of the steps' if warmup < 1 else 'steps'}"
    betas = ", ".join(f"{beta:g}" for beta in optim["betas"])
    optimizer = f"{OPTIMIZERS[optim['name']]} with betas ({betas}) and epsilon {optim['eps']:g}"
    decay, clip = optim["weight_decay"], optim["clip_norm"]
    optimizer += f", weight decay {decay:g}" if decay else ""
    optimizer += f", gradient clipped to norm {clip:g}" if clip else ", no clipping"
    ended = ", stopped early" if result["ended_early"] else ""
    extras = {
        "label smoothing": train["label_smoothing"],
        "class weights": train["class_weights"],
        "dropout": job["model"]["dropout"],
    }
    if adapter["kind"] != "none":
        parts = [f"{key} {value}" for key, value in adapter.items() if value is not None]
        extras["adapter"] = ", ".join(parts)
    return {
        "learning rate": rate,
        "optimizer": optimizer,
        "batch size": f"{train['batch_size']}, over all workers together",
        "steps": f"{result['steps']:,} ({result['epochs']:.2f} epochs){ended}",
        "seed": train["seed"],
        "precision": result["precision"],
        "longest text": f"{job['data']['max_length']} tokens",
        **{name: value for name, value in extras.items() if value not in (None, 0.0, "none")},
    }


def _bullets(values: Mapping[str, object], separator: str = ": ") -> str:
    return "\n".join(f"- {name}{separator}{value}" for name, value in values.items())


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
