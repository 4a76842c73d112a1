"""The five published systems by their job files: tiny encoders and datasets, two workers.

What the cards say about optimizer, schedule, clipping, batches and evaluations is compared with
Hugging Face's Trainer, configured as the cards say, and with peft's own recipe.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

from distsent.batching.sampler import BatchSampler
from distsent.data.tokens.store import TokenStore, open_token_store, token_store_folder
from distsent.distributed.world import World
from distsent.job import Job, load_job
from distsent.job.schema import ModelSection
from tests import fixtures, launcher, systems
from tests.parallel.test_reference import EpochSampler

pytestmark = pytest.mark.slow

CORPUS = {"tweets": "tweets", "imdb": "imdb", "imdb-tiny-lora": "imdb", "imdb-bert-amp": "imdb"}
EMOTION = ("emotion-distilbert", "emotion-bert", "emotion-roberta", "emotion-albert")
SYSTEMS = ("imdb", "imdb-tiny-lora", "imdb-bert-amp", "tweets", *EMOTION)
SHRUNK = {
    "imdb-bert-amp": ["eval.every=3"],
    "tweets": ["data.max_rows=48"],
}  # overrides of a miniature, besides its dataset
# The cards as arguments of Hugging Face's Trainer. With a weight decay of 0 its AdamW is Adam.
CARDS: dict[str, dict[str, Any]] = {
    "imdb": {"learning_rate": 2e-5, "per_device_train_batch_size": 16, "num_train_epochs": 5,
    "eval_strategy": "epoch"},
    "imdb-tiny-lora": {
        "learning_rate": 3e-5, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2,
        "num_train_epochs": 3,
        "eval_strategy": "epoch",
    },
    "imdb-bert-amp": {
        "learning_rate": 2e-5, "per_device_train_batch_size": 16, "num_train_epochs": 3,
        "eval_strategy": "steps", "eval_steps": 3,
    },
    "tweets": {
        "learning_rate": 3e-4, "per_device_train_batch_size": 32, "num_train_epochs": 4,
        "lr_scheduler_type": "constant", "eval_strategy": "epoch",
    },
    **{
        stem: {
            "learning_rate": 2e-5, "per_device_train_batch_size": 64, "num_train_epochs": 8,
            "eval_strategy": "epoch",
        }
        for stem in EMOTION
    },
}  # fmt: skip


class Fixture:
    """The trained systems: their folders and overrides."""

    def __init__(self, folder: Path) -> None:
        self.home, corpora = systems.hub(folder / "home"), systems.corpora(folder)
        self.runs = folder / "runs"
        common = [
            f"run.dir={self.runs}",
            "train.precision=float32",
            "log.every=1",
            "log.tensorboard=false",
            "data.max_length=64",
        ]
        self.plan = [
            [
                f"{stem}.toml",
                [
                    f"data.source={corpora[CORPUS.get(stem, 'emotion')]}",
                    *common,
                    *SHRUNK.get(stem, []),
                ],
            ]
            for stem in SYSTEMS
        ]

    def job(self, stem: str) -> Job:
        return load_job(
            systems.ROOT / "jobs" / f"{stem}.toml",
            dict((file[:-5], words) for file, words in self.plan)[stem],
        )

    def run(self, stem: str) -> Path:
        return self.runs / self.job(stem).job.name

    def store(self, stem: str) -> TokenStore:
        job = self.job(stem)
        tokenizer = AutoTokenizer.from_pretrained(systems.snapshot(self.home, job.model.name))
        return open_token_store(
            job.data,
            job.seeds[0],
            tokenizer,
            job.data.max_length,
            token_store_folder(job),
            workers=World(),
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    """All jobs at -np 2, offline, their encoders by hub id."""
    folder = tmp_path_factory.mktemp("systems")
    made = Fixture(folder)
    (folder / "plan.json").write_text(json.dumps(made.plan))
    ended = launcher.run(
        "-m", "tests.systems", str(folder / "plan.json"), np=2, timeout=1700, cwd=folder,
        HF_HOME=str(made.home),
    )  # fmt: skip
    assert ended.code == 0, ended.output
    return made


@pytest.mark.parametrize("stem", SYSTEMS)
def test_the_job_runs_to_its_end(trained: Fixture, stem: str) -> None:
    run, job = trained.run(stem), trained.job(stem)
    result = fixtures.result(run)
    assert (result["status"], result["world_size"]) == ("finished", 2)
    steps = math.ceil(len(trained.store(stem).splits["train"]) / job.train.batch_size)
    assert result["steps"] == steps * job.train.epochs
    split = "test" if "test" in result["eval"] else "validation"
    assert result["eval"][split]["n"] == len(trained.store(stem).splits[split])
    assert (run / "model" / "README.md").is_file()


class Ordered(Trainer):
    def __init__(self, *args: Any, order: BatchSampler, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._order = order

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        return EpochSampler(self._order)


def network(trained: Fixture, stem: str, classes: int) -> Any:
    """The small model as the card's author would build it: a seeded new head on the encoder."""
    folder = systems.snapshot(trained.home, trained.job(stem).model.name)
    torch.manual_seed(42)
    if stem != "imdb-tiny-lora":
        return AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=classes, dtype=torch.float32
        )
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    four = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        llm_int8_skip_modules=["classifier", "pooler.dense"],
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=classes, dtype=torch.float32, quantization_config=four
    )
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = (
                False  # or the first evaluation would round the weights (see model/adapter.py)
            )
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    return get_peft_model(
        base,
        LoraConfig(
            task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]
        ),
    )


@pytest.mark.parametrize("stem", SYSTEMS)
def test_it_trains_as_hugging_faces_trainer_does_in_the_cards_words(
    trained: Fixture, stem: str, tmp_path: Path
) -> None:
    job, store, run = trained.job(stem), trained.store(stem), trained.run(stem)
    watched = "validation" if "validation" in store.splits else "test"
    rows = {
        split: [{"input_ids": x[i].tolist(), "labels": int(x.labels[i])} for i in range(len(x))]
        for split, x in ((split, store.splits[split]) for split in ("train", watched))
    }
    arguments = TrainingArguments(
        str(tmp_path), adam_beta1=0.9, adam_beta2=0.999, **{"adam_epsilon": 1e-8,
        "lr_scheduler_type": "linear", **CARDS[stem]},
        weight_decay=0.0, max_grad_norm=1.0, optim="adamw_torch", use_cpu=True, report_to=[],
        logging_steps=1, save_strategy="no",
        disable_tqdm=True, per_device_eval_batch_size=64,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(systems.snapshot(trained.home, job.model.name))

    def accuracy(p: Any) -> dict[str, float]:
        return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}

    trainer = Ordered(
        network(trained, stem, len(store.label_names)), arguments, train_dataset=rows["train"],
        eval_dataset=rows[watched],
        processing_class=tokenizer,
        order=BatchSampler(len(rows["train"]), job.train.batch_size, job.seeds[0]),
        compute_metrics=accuracy,
    )  # fmt: skip
    # The Trainer assumes that peft's classifiers divide their loss by the examples of all passes.
    # They do not, so two passes would count double.
    trainer.model_accepts_loss_kwargs = False
    trainer.train()
    theirs = [line for line in trainer.state.log_history if "grad_norm" in line]
    ours = fixtures.metrics(run)
    assert [line["lr"] for line in ours] == pytest.approx(
        [line["learning_rate"] for line in theirs]
    )
    assert [line["loss"] for line in ours] == pytest.approx(
        [line["loss"] for line in theirs], abs=2e-4
    )  # it rounds to 4 digits
    assert [line["grad_norm"] for line in ours] == pytest.approx(
        [line["grad_norm"] for line in theirs], rel=1e-3
    )
    evaluations = [line for line in trainer.state.log_history if "eval_loss" in line]
    history = fixtures.result(run)["history"]
    if history[-1]["step"] % (job.eval.every if isinstance(job.eval.every, int) else 1):
        history = history[:-1]  # the last step is always evaluated
    assert [line["step"] for line in history] == [line["step"] for line in evaluations]
    assert [line["loss"] for line in history] == pytest.approx(
        [line["eval_loss"] for line in evaluations], abs=2e-4
    )
    assert [line["accuracy"] for line in history] == pytest.approx(
        [line["eval_accuracy"] for line in evaluations], abs=1e-4
    )


def test_the_four_bit_adapter_reloads_to_the_same_scores(trained: Fixture) -> None:
    """Merged, as all programs load it, and by peft, on the base in 4 bits. Tolerance 1e-5."""
    from peft import PeftModel

    from distsent.batching.packing import pack
    from distsent.evaluation.predictor import Predictor
    from distsent.model import adapter, classifier
    from distsent.model.padded_forward import PaddedForward

    run, job, store = (
        trained.run("imdb-tiny-lora"),
        trained.job("imdb-tiny-lora"),
        trained.store("imdb-tiny-lora"),
    )
    kept, tokens = load_file(run / "predictions" / "test.safetensors"), store.splits["test"]
    piece = pack([tokens[i] for i in range(len(tokens))], np.zeros(len(tokens)))
    with torch.no_grad():
        merged = Predictor(run).forward(piece).numpy()
    assert np.abs(merged - kept["logits"]).max() < 1e-5
    folder = systems.snapshot(trained.home, job.model.name)
    base = classifier.build_classifier(
        ModelSection(name=str(folder)),
        AutoTokenizer.from_pretrained(folder),
        store.label_names,
        seed=7,
        quantization=adapter.nf4_config(["classifier", "pre_classifier"]),
    ).model
    adapter.keep_4bit_weights(base)
    with torch.no_grad():
        loaded = PaddedForward(
            PeftModel.from_pretrained(base, str(run / "model" / "adapter")).eval(), 0
        )(piece).numpy()
    assert np.abs(loaded - kept["logits"]).max() < 1e-5


def test_only_what_is_trained_is_exchanged_and_kept_in_checkpoints(trained: Fixture) -> None:
    run = trained.run("imdb-tiny-lora")
    result = fixtures.result(run)
    saved = load_file(next((run / "checkpoints").glob("step-*")) / "weights.safetensors")
    assert all("lora_" in name or "classifier" in name for name in saved)
    assert (
        sum(x.size for x in saved.values())
        == result["parameters"]["trained"]
        < result["parameters"]["all"] / 5
    )
    # Each of two workers reads half of the other's gradients.
    read = round(4 * result["parameters"]["trained"] / 2)
    assert result["train"]["bytes_exchanged"] == result["steps"] * read


def test_report_prints_the_table_of_system_5(trained: Fixture) -> None:
    runs = [str(trained.run(stem)) for stem in EMOTION]
    ended = launcher.run("-m", "distsent.report", *runs)
    assert ended.code == 0, ended.output
    head, _, *lines = ended.output.splitlines()[2:8]
    assert [cell.strip() for cell in head.split("|")[1:8]] == [
        "run", "model", "accuracy", "F1", "F1 macro", "loss", "test examples/s",
    ]  # fmt: skip
    names = ("distilbert-base-uncased", "bert-base-uncased", "roberta-base", "albert-base-v2")
    assert all(name in line for name, line in zip(names, lines, strict=True))


def test_evaluate_gives_the_runs_own_scores_at_any_number_of_workers(trained: Fixture) -> None:
    run = trained.run("imdb-tiny-lora")
    expected = fixtures.result(run)["eval"]["test"]
    for np_ in (None, 2):
        ended = launcher.run(
            "-m", "distsent.evaluate", str(run), np=np_, cwd=trained.runs, HF_HOME=str(trained.home)
        )
        assert ended.code == 0, ended.output
        (line,) = [
            line[line.index("{") :] for line in ended.output.splitlines() if '"confusion"' in line
        ]
        scores, _ = json.JSONDecoder().raw_decode(
            line
        )  # mpirun may put a line of standard error directly after it
        assert scores["confusion"] == expected["confusion"]
        assert scores["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert scores["world_size"] == (np_ or 1)
