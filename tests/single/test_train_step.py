"""Training steps against references: a plain torch loop over the same batches, and float64."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from distsent.batching.batch_plan import Batch, BatchPlan
from distsent.batching.flops import count_flops
from distsent.batching.packing import pack
from distsent.batching.sampler import BatchSampler
from distsent.distributed.world import World
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.job.schema import OptimSection, TrainSection
from distsent.model.classifier import token_embedding
from distsent.model.forward import Forward, choose_ways
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import PaddedForward
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import Schedule
from distsent.training.passes import Pass, TrainingLoss
from distsent.training.reducer import GradientReducer
from distsent.training.train_step import LossScale, TrainStep
from tests import fixtures, tiny_models

STEPS = 100


def make(
    model: transformers.PreTrainedModel,
    tokens: tiny_models.Tokens,
    train: TrainSection,
    optim: OptimSection,
    budget: int = 10**6,
    steps: int = STEPS,
) -> tuple[TrainStep, BatchPlan]:
    sampler = BatchSampler(len(tokens), train.batch_size, seed=5)
    plan = BatchPlan(tokens, sampler, count_flops(model.config), 0, 1, budget, torch.device("cpu"))
    flat = FlatParameters(model, token_embedding(model))
    forward = PackedForward(model.train())
    return step_of(forward, flat, optim, steps, train.label_smoothing), plan


def step_of(
    forward: Forward,
    flat: FlatParameters,
    optim: OptimSection,
    steps: int,
    smoothing: float = 0.0,
    precision: str = "float32",
) -> TrainStep:
    reducer, schedule = GradientReducer(World(), flat), Schedule.from_job(optim, steps)
    loss = TrainingLoss(SingleLabel(fixtures.LABELS), smoothing)
    return TrainStep(Pass(forward, flat, loss, precision), reducer, optim, schedule)


def plain_loop(
    model: transformers.PreTrainedModel,
    tokens: tiny_models.Tokens,
    train: TrainSection,
    optim: OptimSection,
    steps: int = STEPS,
) -> list[tuple[float, float, float]]:
    """(loss, norm, lr) of each step of a textbook loop.

    It pads, takes the mean loss, clips, and uses torch's optimizer and transformers' schedule.
    """
    sampler = BatchSampler(len(tokens), train.batch_size, seed=5)
    decayed = [
        p for n, p in model.named_parameters() if "bias" not in n and "norm" not in n.lower()
    ]
    others = [p for n, p in model.named_parameters() if "bias" in n or "norm" in n.lower()]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    groups = [
        {"params": decayed, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    name = "constant_with_warmup" if optim.schedule == "constant" else optim.schedule
    warmup = math.ceil(optim.warmup * steps) if optim.warmup < 1 else int(optim.warmup)
    schedule = transformers.get_scheduler(name, optimizer, warmup, steps)
    records = []
    model.train()
    for step in range(steps):
        rows = sampler.batch(step)
        ids = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(tokens[r].copy()) for r in rows], batch_first=True
        )
        mask = torch.nn.utils.rnn.pad_sequence(
            [torch.ones(len(tokens[r])) for r in rows], batch_first=True
        )
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = F.cross_entropy(
            logits, torch.from_numpy(tokens.labels[rows]), label_smoothing=train.label_smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm or math.inf)
        records.append((loss.item(), float(norm), schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    return records


RECIPES = {
    "adamw, linear, decay": (
        TrainSection(batch_size=8),
        OptimSection(name="adamw", lr=1e-3, weight_decay=0.1, warmup=0.1, clip_norm=0.5),
    ),
    "adam, L2, cosine": (
        TrainSection(batch_size=7),
        OptimSection(name="adam", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup=9.0),
    ),
    "unclipped, smoothed": (
        TrainSection(batch_size=16, label_smoothing=0.1),
        OptimSection(lr=5e-4, clip_norm=0.0, schedule="constant"),
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_hundred_steps_equal_a_plain_torch_loop(recipe: str, family: str) -> None:
    """Losses, norms, rates and weights, in float64: only a different formula would show."""
    train, optim = RECIPES[recipe]
    tokens, model = tiny_models.tokens(45), tiny_models.encoder(family).double()
    reference = copy.deepcopy(model)
    train_step, plan = make(
        model, tokens, train, optim, budget=90
    )  # 45 rows: short last batches; 90 tokens: accumulation
    records = []
    for step in range(STEPS):
        result = train_step(plan.batch(step))
        records.append((result.loss, result.grad_norm, result.lr))
    assert np.array(records) == pytest.approx(
        np.array(plain_loop(reference, tokens, train, optim)), rel=1e-6
    )
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6), name


def test_float32_stays_within_1e5_of_the_plain_loop() -> None:
    train, optim = TrainSection(batch_size=8), OptimSection(lr=1e-4, clip_norm=1.0)
    tokens, model = tiny_models.tokens(45), tiny_models.encoder("bert")
    reference = copy.deepcopy(model)
    train_step, plan = make(model, tokens, train, optim)
    losses = [train_step(plan.batch(step)).loss for step in range(STEPS)]
    assert losses == pytest.approx(
        [x[0] for x in plain_loop(reference, tokens, train, optim)], rel=1e-5
    )
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 60, 200])
def test_accumulation_changes_nothing(budget: int) -> None:
    tokens, train, optim = (
        tiny_models.tokens(30),
        TrainSection(batch_size=10),
        OptimSection(lr=1e-3),
    )
    whole, plan = make(tiny_models.encoder("bert", dropout=0.1).double(), tokens, train, optim)
    parts, cut = make(
        tiny_models.encoder("bert", dropout=0.1).double(), tokens, train, optim, budget=budget
    )
    for step in range(6):
        a, b = whole(plan.batch(step)), parts(cut.batch(step))
        assert (a.loss, a.grad_norm, a.right) == pytest.approx(
            (b.loss, b.grad_norm, b.right), rel=1e-6
        )
    assert torch.allclose(whole.flat.values, parts.flat.values, atol=1e-9)


def test_only_touched_embedding_rows_have_a_gradient() -> None:
    tokens = tiny_models.tokens(30)
    train_step, plan = make(
        tiny_models.encoder("bert"), tokens, TrainSection(batch_size=4), OptimSection()
    )
    for step in range(3):
        batch = plan.batch(step)
        train_step(batch)
        table = train_step.flat.embedding_grad
        rows = torch.nonzero(table.abs().sum(1)).squeeze(1)
        assert set(rows.tolist()) <= set(batch.token_ids.tolist())
        assert table.data_ptr() == token_embedding(train_step.forward.model).weight.grad.data_ptr()


def xlnet() -> transformers.PreTrainedModel:
    """Its head reads the last position, and the embedding of its padding is trained."""
    torch.manual_seed(0)
    config = transformers.XLNetConfig(
        vocab_size=100, d_model=32, n_layer=2, n_head=2, d_inner=32, num_labels=3, pad_token_id=5
    )
    return transformers.XLNetForSequenceClassification(config).eval()


def gpt2() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=100, n_embd=32, n_layer=2, n_head=2, num_labels=3, pad_token_id=0
    )
    return transformers.GPT2ForSequenceClassification(config).eval()


@pytest.mark.parametrize("make", [xlnet, gpt2])
def test_padding_changes_no_example(make: Callable[[], transformers.PreTrainedModel]) -> None:
    """Neither through a head that reads the last position, nor through position ids."""
    lengths, model = (3, 9, 9, 20), make()
    pad = model.config.pad_token_id
    ids = [np.arange(10, 10 + n) for n in lengths]
    forward = PaddedForward(model, pad, *choose_ways(model, "never", training=True))
    with torch.no_grad():
        apart = [forward(pack([x], np.zeros(1))) for x in ids]
        assert torch.allclose(forward(pack(ids, np.zeros(4))), torch.cat(apart), atol=1e-6)


def test_embedding_rows_that_only_padding_touches_are_reduced_too() -> None:
    model, tokens = xlnet(), tiny_models.tokens(20)
    forward, flat = PaddedForward(model, 5), FlatParameters(model, token_embedding(model))
    plan = BatchPlan(
        tokens,
        BatchSampler(20, 4, seed=5),
        count_flops(model.config),
        0,
        1,
        10**6,
        torch.device("cpu"),
        added_ids=forward.added_ids,
    )
    train_step = step_of(forward, flat, OptimSection(), 9)
    batch = plan.batch(0)
    train_step(batch)
    assert flat.embedding_grad is not None and flat.embedding_grad[5].abs().sum() > 0
    assert set(torch.nonzero(flat.embedding_grad.abs().sum(1)).squeeze(1).tolist()) <= set(
        batch.token_ids.tolist()
    )


def test_a_non_finite_loss_skips_the_step_and_names_the_rows() -> None:
    tokens = tiny_models.tokens(8)
    train_step, plan = make(
        tiny_models.encoder("bert"), tokens, TrainSection(batch_size=8), OptimSection()
    )
    token_embedding(train_step.forward.model).weight.data[tokens[2][0]] = math.nan
    before = train_step.flat.values.clone()
    result = train_step(plan.batch(0))
    hit = [row for row in range(8) if tokens[2][0] in tokens[row]]
    assert not result.finite and sorted(result.bad_rows) == hit
    assert torch.equal(train_step.flat.values.nan_to_num(0), before.nan_to_num(0))


def test_an_fp16_overflow_skips_the_step_and_does_not_advance_the_schedule() -> None:
    """As in Hugging Face's Trainer. The numbers are float32 here, and the overflow is simulated."""
    tokens = tiny_models.tokens(40)
    optim = OptimSection(lr=1e-3, schedule="linear", warmup=0.0)
    train_step, plan = make(
        tiny_models.encoder("bert"), tokens, TrainSection(batch_size=8), optim, steps=10
    )
    train_step.scales, train_step.scale = True, LossScale(4.0)
    real, rates = train_step._backward, []

    def backward(batch: Batch) -> list[int]:
        bad = real(batch)
        if batch.step in (1, 2, 4):
            train_step.flat.grads[-1] = math.inf
        return bad

    train_step._backward = backward  # type: ignore[method-assign]
    for step in range(5):
        before = train_step.flat.values.clone()
        result = train_step(plan.batch(step))
        rates.append(result.lr)
        assert (
            result.finite
            == (step not in (1, 2, 4))
            == (not torch.equal(train_step.flat.values, before))
        )
        assert result.overflowed == (step in (1, 2)), "a scale of 1 cannot be the reason"
    assert (
        rates == pytest.approx([1e-3, 9e-4, 9e-4, 9e-4, 8e-4])
        and train_step.updates == 2
        and train_step.scale.value == 1
    )


def test_the_loss_scale_halves_on_overflow_and_doubles_after_2000_good_steps() -> None:
    scale = LossScale(1024.0)
    scale.update(False)
    assert scale.value == 512
    for _ in range(2000):
        scale.update(True)
    assert scale.value == 1024
