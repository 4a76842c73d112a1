"""The model card: model/README.md in Hugging Face's format, made of the run folder alone."""

from __future__ import annotations

from typing import Any

from distsent.evaluation import intervals
from distsent.job.keys import to_toml_value
from distsent.job.known_datasets import KNOWN_DATASETS
from distsent.job.rules import looks_local, public_name
from distsent.reporting import plots
from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun
from distsent.runtime.log import duration
from distsent.runtime.run_folder import write_text

METRICS = {
    "accuracy": "Accuracy",
    "f1": "F1",
    "precision": "Precision",
    "recall": "Recall",
    "loss": "Loss",
}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW"}


def write_model_card(run: FinishedRun) -> None:
    """Write the card, and its pictures where matplotlib is there."""
    drawn = plots.available()
    if drawn:
        for name, figure in card_figures(run).items():
            plots.save_figure(figure, run.folder.model / name)
    write_text(run.folder.model / "README.md", card_text(run, drawn))


def card_figures(run: FinishedRun) -> dict[str, Any]:
    """The card's pictures by file name."""
    out = {"curves.png": plots.plot_curves({run.name: (run.losses(), run.result["history"])})}
    for split, scores in run.result["eval"].items():
        out[f"confusion-{split}.png"] = plots.plot_confusion(
            scores["confusion"], run.labels, f"{run.name}, {split}"
        )
    return out


def card_text(run: FinishedRun, drawn: bool) -> str:
    """The card as markdown. `drawn`: whether its pictures lie beside it."""
    from huggingface_hub import ModelCard

    blocks = [_opening(run), _scores(run), _classes(run), _evaluations(run)]
    if drawn:
        blocks.append("![loss and accuracy over epochs](curves.png)")
        blocks += [
            f"![confusion matrix on the {split} split](confusion-{split}.png)"
            for split in run.result["eval"]
        ]
    blocks += [_hyperparameters(run), _speed(run), _use(run), _versions(run)]
    metadata = _metadata(run).to_yaml()
    return str(
        ModelCard(
            f"---\n{metadata}\n---\n\n" + "\n\n".join(block.strip() for block in blocks) + "\n"
        )
    )


def _metadata(run: FinishedRun) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    model, corpus = run.job["model"]["name"], _corpus(run)
    results = [
        EvalResult(
            task_type="text-classification", task_name="Text classification", dataset_type=corpus, dataset_name=corpus,
            dataset_config=run.job["data"]["config"], dataset_revision=run.job["data"]["revision"], dataset_split=split,
            metric_type=key, metric_name=name, metric_value=round(scores[key], 6),
        )
        for split, scores in run.result["eval"].items() for key, name in METRICS.items()
    ]  # fmt: skip
    hub_model, hub_corpus = (
        model != "demo" and not looks_local(model),
        not looks_local(corpus) and corpus != "demo",
    )
    adapter = run.job["adapter"]["kind"]
    return ModelCardData(
        base_model=model if hub_model else None, datasets=[corpus] if hub_corpus else None, library_name="transformers",
        pipeline_tag="text-classification", metrics=["accuracy", "f1", "precision", "recall"], model_name=run.name,
        tags=["text-classification", "distsent", "horovod", *([] if adapter == "none" else [adapter, "peft"])],
        eval_results=results,
    )  # fmt: skip


def _corpus(run: FinishedRun) -> str:
    source = str(run.job["data"]["source"])
    if source in KNOWN_DATASETS:
        return KNOWN_DATASETS[source].hub_id
    return f"./{public_name(source)}" if looks_local(source) else source


def _encoder(run: FinishedRun) -> str:
    name = str(run.job["model"]["name"])
    if name == "demo":
        return "a small BERT with random weights"
    if looks_local(name):
        return f"`{public_name(name)}` (a local folder)"
    return f"[{name}](https://huggingface.co/{name})"


def _opening(run: FinishedRun) -> str:
    job, result = run.job, run.result
    source = _corpus(run)
    corpus = "the demo corpus of distsent" if source == "demo" else f"`{source}`" if looks_local(source) else (
        f"[{source}](https://huggingface.co/datasets/{source})"
    )  # fmt: skip
    lines = [
        f"# {run.name}",
        "",
        f"A text classifier with {len(run.labels)} classes ({', '.join(run.labels)}): {_encoder(run)}, fine-tuned on {corpus}. "
        f"Texts are cut at {job['data']['max_length']} tokens.",
        "",
        f"{result['parameters']['all']:,} parameters, {result['parameters']['trained']:,} of them trained.",
    ]
    if job["adapter"]["kind"] != "none":
        base = (
            "kept in 4 bits (NF4), the head whole" if job["adapter"]["bits"] else "left as they are"
        )
        lines.append(
            f"Trained were low-rank updates (LoRA, rank {job['adapter']['rank']}, alpha {job['adapter']['alpha']:g}) over weights "
            f"{base}. This folder holds the model with its updates merged in, in float32; `adapter/` holds the updates alone."
        )
    return "\n".join(lines)


def _scores(run: FinishedRun) -> str:
    rows = []
    for split, scores in run.result["eval"].items():
        bounds = intervals.score_intervals(scores["confusion"])
        cells = [
            f"{scores[key]:.4f} [{bounds[key][0]:.4f}, {bounds[key][1]:.4f}]"
            for key in ("accuracy", "f1", "f1_macro")
        ]
        rest = [f"{scores[key]:.4f}" for key in ("precision", "recall", "loss")]
        rows.append([split, f"{scores['n']:,}", *cells, *rest])
    meaning = f"of `{run.labels[1]}`" if len(run.labels) == 2 else "weighted by support"
    best = run.result["best"]
    chosen = (
        f" The weights are those of step {best['step']}, chosen on the validation split."
        if best
        else ""
    )
    return (
        "## Scores\n\n"
        + markdown_table(
            ["split", "rows", "accuracy", "F1", "F1 macro", "precision", "recall", "loss"], rows
        )
        + "\nIn brackets: 95 % confidence intervals over the rows (Wilson for accuracy, bootstrap for F1). "
        f"Precision, recall and F1 are {meaning}.{chosen}"
    )


def _classes(run: FinishedRun) -> str:
    blocks = ["## Each class"]
    for split, scores in run.result["eval"].items():
        rows = [
            [name, *(f"{one[key]:.4f}" for key in ("precision", "recall", "f1")), f"{one['n']:,}"]
            for name, one in scores["per_class"].items()
        ]
        blocks.append(
            f"On the {split} split:\n\n"
            + markdown_table(["class", "precision", "recall", "F1", "rows"], rows).strip()
        )
    return "\n\n".join(blocks)


def _evaluations(run: FinishedRun) -> str:
    history = run.result["history"]
    split = history[-1]["split"] if history else "validation"
    keys = ("train_loss", "train_accuracy", "loss", "accuracy", "f1", "precision", "recall")
    rows = [
        [f"{one['epoch']:.2f}", f"{one['step']:,}", *(f"{one[key]:.4f}" for key in keys)]
        for one in history
    ]
    head = [
        "epoch",
        "step",
        "training loss",
        "training accuracy",
        f"{split} loss",
        "accuracy",
        "F1",
        "precision",
        "recall",
    ]
    return f"## On the way\n\nScores on the {split} split at each evaluation.\n\n" + markdown_table(
        head, rows
    )


def _hyperparameters(run: FinishedRun) -> str:
    job, result = run.job, run.result
    data, train, optim, adapter = job["data"], job["train"], job["optim"], job["adapter"]
    decay = f", weight decay {optim['weight_decay']:g}" if optim["weight_decay"] else ""
    clip = (
        f"gradient clipped to norm {optim['clip_norm']:g}" if optim["clip_norm"] else "no clipping"
    )
    warm = (
        f"{optim['warmup']:g} of the steps" if optim["warmup"] < 1 else f"{optim['warmup']:g} steps"
    )
    lines = {
        "learning rate": f"{optim['lr']:g}, {optim['schedule']} schedule" + (f", warm-up {warm}" if optim["warmup"] else ""),
        "optimizer": f"{OPTIMIZERS[optim['name']]} with betas ({optim['betas'][0]:g}, {optim['betas'][1]:g}) and epsilon "
                     f"{optim['eps']:g}{decay}, {clip}",
        "batch size": f"{train['batch_size']}, over all workers together",
        "steps": f"{result['steps']:,} ({result['epochs']:.2f} epochs)" + (", ended early" if result["ended_early"] else ""),
        "seed": train["seed"],
        "precision": result["precision"],
        "longest text": f"{data['max_length']} tokens",
    }  # fmt: skip
    extras = {
        "label smoothing": train["label_smoothing"],
        "class weights": train["class_weights"],
        "dropout": job["model"]["dropout"],
    }
    lines |= {name: value for name, value in extras.items() if value not in (None, 0.0, "none")}
    if adapter["kind"] != "none":
        lines["adapter"] = ", ".join(
            f"{key} {value}" for key, value in adapter.items() if value is not None
        )
    listed = "\n".join(f"- {name}: {value}" for name, value in lines.items())
    return f"## Hyperparameters\n\n{listed}\n\nThe whole job:\n\n```toml\n{_job(job)}```"


def _job(job: dict[str, Any]) -> str:
    """The job as TOML, without what concerns the machine that it ran on."""
    blocks = []
    for section, body in job.items():
        lines = [f"[{section}]"]
        for key, value in body.items() if section != "run" else ():
            if value is not None and key != "store":
                local = isinstance(value, str) and looks_local(value)
                lines.append(
                    f"{key} = {to_toml_value(f'./{public_name(value)}' if local else value)}"
                )
        blocks.append("\n".join(lines)) if len(lines) > 1 else None
    return "\n\n".join(blocks) + "\n"


def _speed(run: FinishedRun) -> str:
    train, size = run.result["train"], run.result["world_size"]
    lines = [
        f"- training: {train['samples_per_second']:,.1f} examples/s, {train['tokens_per_second']:,.0f} tokens/s (real ones, no "
        f"padding) on {size} worker{'s' * (size > 1)}; {duration(train['seconds'])} for {train['samples']:,} examples"
    ]
    for split, scores in run.result["eval"].items():
        lines.append(f"- scoring the {split} split: {scores['samples_per_second']:,.1f} examples/s")
    if train.get("peak_memory_bytes"):
        lines.append(
            f"- memory of a worker at its peak: {train['peak_memory_bytes'] / 2**30:.2f} GiB"
        )
    return "## Throughput\n\n" + "\n".join(lines)


def _use(run: FinishedRun) -> str:
    code = 'from transformers import pipeline\n\nclassify = pipeline("text-classification", "MODEL")\nprint(classify("..."))'
    block = f"## How to load it\n\n`MODEL` is this folder, or the name of its repository.\n\n```python\n{code}\n```"
    block += "\n\nOr for whole files, in the order of their rows:\n\n```bash\npython -m distsent.predict MODEL --file texts.csv\n```"
    if run.job["adapter"]["kind"] != "none":
        block += _adapter(run)
    return block


def _adapter(run: FinishedRun) -> str:
    base, names = str(run.job["model"]["name"]), dict(enumerate(run.labels))
    code = f"""from peft import PeftModel
from transformers import AutoModelForSequenceClassification

base = AutoModelForSequenceClassification.from_pretrained(
    "{public_name(base)}", id2label={names}, label2id={ {name: i for i, name in names.items()} }
)
model = PeftModel.from_pretrained(base, "MODEL", subfolder="adapter")"""
    block = f"\n\nThe updates alone, over the encoder that they were trained on:\n\n```python\n{code}\n```"
    if run.job["adapter"]["bits"]:
        block += "\n\nThat is slightly another model: this folder holds what was trained, updates over the encoder in 4 bits."
    return block


def _versions(run: FinishedRun) -> str:
    listed = "\n".join(f"- {name} {version}" for name, version in run.result["versions"].items())
    return f"## Versions\n\n{listed}"
