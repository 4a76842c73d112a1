"""plan: what it counts is what a training does; its formulas by hand values; its mistakes."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from distsent import plan
from distsent.batching.batch_plan import BatchPlan
from distsent.batching.flops import count_flops
from distsent.batching.sampler import BatchSampler
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.job import load_job
from distsent.model.classifier import token_embedding
from distsent.planning import advice, calibrate
from distsent.planning.calibrate import shares_to_run
from distsent.planning.critical_batch import NoiseScale, batch_sizes, find_noise_scale
from distsent.planning.fit import fit_times
from distsent.planning.hardware import Hardware, describe, presets, read_hardware
from distsent.planning.link import TREE, Exchange, Link, fit_link, slower
from distsent.planning.speed import Share, SharedTimes, Speed, fit_speed
from distsent.planning.step_time import Prediction, Run, StepTime, memory_of, predict, step_time
from distsent.planning.work import ModelSize, Work, count_work
from distsent.planning.worker import all_share_weights
from distsent.runtime.local_start import local_command
from distsent.runtime.signals import StopSignal
from distsent.training.activations import Activations
from distsent.training.flat_parameters import FlatParameters
from distsent.training.reducer import GradientReducer
from distsent.training.worker_memory import CPU, GPU, WorkerMemory, frozen_bytes
from tests import fixtures, systems, tiny_models
from tests.single.test_reducer import RecordingWorld
from tests.single.test_world import on_workers

LINK = Link(latency=1e-3, bandwidth=1e9)
COUNTED = Activations(np.array([9.0, 1.0]), np.array([1.0, 3.0]), np.array([2.0, 0.5]))


def model_size(trained: int = 1000, frozen: float = 0.0) -> ModelSize:
    return ModelSize(WorkerMemory(trained, 2 * trained, frozen, COUNTED), 0, 0)


def batches(rows: int = 40, size: int = 8, budget: int = 60, windows: bool = False) -> BatchPlan:
    tokens = tiny_models.windowed(rows) if windows else tiny_models.tokens(rows)
    flops = count_flops(tiny_models.encoder("bert").config)
    sampler, cpu = BatchSampler(rows, size, seed=3), torch.device("cpu")
    return BatchPlan(tokens, sampler, flops, 0, 1, budget, cpu)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("rows", [40, 45, 5])  # the last batch may be a shorter one
@pytest.mark.parametrize("workers", [1, 2, 3, 8, 20])
def test_shares_are_those_that_workers_train(workers: int, rows: int, windows: bool) -> None:
    whole, model = batches(rows, windows=windows), model_size()
    work = count_work(whole, model, workers)
    steps = whole.sampler.steps_per_epoch
    assert work.flops_SR.shape == work.micro_batches_SR.shape == (steps, workers)
    alive = 0.0
    for rank in range(workers):
        own = whole.for_worker(rank, workers)
        for step in range(steps):
            batch = own.batch(step)
            assert work.micro_batches_SR[step, rank] == len(batch.micro_rows)
            lengths = [own.tokens.window_lengths(rows) for rows in batch.micro_rows]
            expected = sum(map(own.flops.training, lengths))
            assert work.flops_SR[step, rank] == pytest.approx(expected)
            alive = max([alive, *map(COUNTED.bytes, lengths)])
    assert work.alive == pytest.approx(alive) and work.planning > 0
    assert work.examples * steps == pytest.approx(rows)
    assert work.tokens * steps == pytest.approx(whole.tokens.lengths().sum())
    assert work.idle == max(0, workers - min(8, rows))


@pytest.mark.parametrize("frozen", [False, True])
def test_messages_are_those_that_a_reducer_sends(frozen: bool) -> None:
    model, whole = tiny_models.encoder("bert"), batches(rows=8)
    embedding = token_embedding(model)
    embedding.weight.requires_grad_(not frozen)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = WorkerMemory(trained, trained, frozen_bytes(model), COUNTED)
    size = ModelSize.of(memory, embedding)
    reducer = GradientReducer(RecordingWorld(), FlatParameters(model, embedding))
    reducer.reduce(whole.batch(0).token_ids)
    assert sum(count_work(whole, size, 2).messages) == reducer.sent
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert memory.frozen == 4 * embedding.weight.numel() * frozen + buffers


@pytest.mark.parametrize(
    ("algorithm", "workers", "hops"),
    [("ring", 2, 2), ("ring", 8, 14), (TREE, 2, 2), (TREE, 8, 6), (TREE, 5, 6), (TREE, 4096, 24)],
)
def test_an_all_reduce_by_hand(algorithm: str, workers: int, hops: int) -> None:
    link = replace(LINK, algorithm=algorithm)
    messages = (3e6, 1e6)
    by_bytes = 2 * (workers - 1) / workers * 4e6 / 1e9
    assert link.seconds(messages, workers) == pytest.approx(2 * hops * 1e-3 + by_bytes)
    assert link.seconds(messages, 1) == 0
    assert slower(LINK, Link(2e-3, 5e8)) == Link(2e-3, 5e8)


def test_fits_find_the_parts_again() -> None:
    true = Link(latency=2e-4, bandwidth=3e9)
    sizes = [(4e3, 4e3), (1e6, 4e3), (16e6, 16e6, 3e6)]
    measured = [Exchange(m, r, true.seconds(m, r)) for m in sizes for r in (2, 4, 8)]
    found = fit_link(measured)
    for name in ("latency", "bandwidth"):
        assert getattr(found, name) == pytest.approx(getattr(true, name), rel=1e-6)
    speed = Speed(update=0.02, micro_batch=0.01, flop=1e-10)
    shares = [(0, 0.0), (1, 1e9), (1, 4e9), (2, 9e9)]
    timed = [Share(m, f, 0.02 + float(speed.compute(np.array(m), np.array(f)))) for m, f in shares]
    found_speed = fit_speed(timed)
    assert [found_speed.update, found_speed.micro_batch, found_speed.flop] == pytest.approx(
        [0.02, 0.01, 1e-10]
    )


def test_no_fitted_part_is_negative() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = rng.random((6, 3)) * [1, 1e6, 1e9]
        found = fit_times(parts, rng.random(6) + 0.1)
        assert min(found) >= 0 and max(found) > 0


def work(workers: int, flops: float = 1e9, micro: float = 1.0, bytes_: float = 0.0) -> Work:
    shape = (3, workers)
    sizes = np.full(shape, micro), np.full(shape, flops / workers)
    return Work(*sizes, 8.0, 80.0, (bytes_, 8.0), 2, 100.0, 0.001)


def machines(gpu: bool = False, per_machine: int = 4, **keys: object) -> Hardware:
    speed = Speed(update=0.01, micro_batch=0.02, flop=1e-9)
    between = Link(latency=2e-3, bandwidth=1e8)
    return Hardware("m", {per_machine: speed}, {4: LINK}, per_machine, between, gpu, **keys)  # type: ignore[arg-type]


def test_a_step_by_hand() -> None:
    one = step_time(work(1), machines())
    assert one == StepTime(compute=pytest.approx(1.02), exchange=0, update=0.01, planning=0.001)
    # Within a machine of CPUs nothing is hidden: the cores that move bytes are those that compute.
    here = step_time(work(2, bytes_=1e9), machines())
    assert here.exchange == pytest.approx(LINK.seconds((1e9, 8.0), 2))
    # Workers that share their weights were measured.
    shared = machines(shared={2: SharedTimes(0.25, 0.125), 4: SharedTimes(0.5, 0.0625)})
    for workers, exchange, update in ((1, 0.0, 0.01), (2, 0.25, 0.125), (3, 0.5, 0.0625)):
        found = step_time(work(workers, bytes_=1e9), shared)
        assert (found.exchange, found.update) == (exchange, update)
    assert step_time(work(8), shared) == step_time(work(8), machines())
    # Between machines, the slower link counts. Nothing hides the last two messages.
    there = step_time(work(8, bytes_=4e8), machines())
    both = Link(2e-3, 1e8).seconds((4e8, 8.0), 8)
    assert there.exchange == pytest.approx(both)
    # Backward, two thirds of the compute, hides the others.
    many = replace(work(8), messages=(1e7, 1e7, 1e6, 8.0))
    hidden = step_time(many, machines())
    whole = Link(2e-3, 1e8)
    expected = max(
        whole.seconds(many.messages[-2:], 8),
        whole.seconds(many.messages, 8) - hidden.compute * 2 / 3,
    )
    assert hidden.exchange == pytest.approx(expected) and hidden.exchange < both


def test_a_step_waits_for_its_slowest_worker_each_time() -> None:
    uneven = work(2)
    flops = np.array([[4e8, 6e8], [7e8, 3e8], [5e8, 5e8]])
    found = step_time(replace(uneven, flops_SR=flops), machines())
    assert found.compute == pytest.approx(0.02 + (0.6 + 0.7 + 0.5) / 3)


def test_a_prediction_adds_up() -> None:
    run = Run(steps=100, evaluations=2, watched_flops=1e9, final_flops=3e9, save_every=1e9)
    model = model_size(trained=10**6, frozen=4e5)
    found = predict(work(4), work(1), work(2), machines(price=3.0), model, run)
    seconds = found.time.seconds
    assert found.efficiency == pytest.approx(step_time(work(1), machines()).seconds / 4 / seconds)
    assert found.samples_per_second == pytest.approx(8 / seconds)
    assert found.tokens_per_second == pytest.approx(80 / seconds)
    expected = 100 * seconds + 5e9 * 1e-9 / 4 + 2 * 12e6 / 3e9
    assert found.hours == pytest.approx(expected / 3600, rel=1e-4)
    assert found.cost == pytest.approx(3 * 4 * found.hours)
    assert found.of_machine == pytest.approx(
        2 * step_time(work(2), machines()).seconds / 4 / seconds
    )
    held = CPU.libraries + 16e6 + 4e5 + CPU.loading * 8e6
    step = CPU.gaps * 100 + CPU.buffers
    assert found.memory == pytest.approx(held + step + 12e6), (
        "the main worker copies weights and moments"
    )
    held, step = GPU.libraries + 16e6 + 4e5, GPU.gaps * 100 + GPU.buffers
    assert memory_of(work(4), machines(gpu=True), model) == held + step
    assert memory_of(replace(work(4), alive=None), machines(), model) is None


def prediction(workers: int, speed: float, memory: float = 1e9) -> Prediction:
    efficiency = speed / workers / 10
    time = StepTime(1.0, 0.0, 0.0, 0.0)
    return Prediction(workers, 1, 0, time, speed, speed, efficiency, efficiency, 1.0, None, memory)


def test_where_waste_begins() -> None:
    """Each added worker must add half of what the first one does."""
    speeds = {1: 10.0, 2: 19.0, 4: 30.0, 8: 49.0, 16: 55.0}  # gains per worker: 9, 5.5, 4.75, 0.75
    found = [prediction(*pair) for pair in speeds.items()]
    assert advice.last_worth_adding(found) == 4
    assert advice.last_worth_adding(found[:1]) == 1
    assert advice.last_worth_adding(found[:3]) == 4
    # From two workers on, which share a machine and are no faster than one alone
    assert advice.last_worth_adding([prediction(2, 10), prediction(4, 18), prediction(8, 25)]) == 4
    assert advice.counts_to_try([3, 64], machines(), 20) == [1, 2, 3, 4, 8, 16, 20, 64]
    both = replace(machines(), speeds=dict.fromkeys((1, 4), machines().speeds[4]))
    assert advice.counts_to_try([1, 64], both, 16) == [4, 8, 16, 64]
    assert advice.counts_to_try([1], both, 2) == [4]


def advised(
    limit: int = 4, asked: tuple[int, ...] = (1, 16), words: tuple[str, ...] = (), **changes: object
) -> str:
    """16 workers reach half of linear from batches four times as large on."""
    keys = ["train.batch_size=32", "optim.lr=1e-3", "data.max_length=64", *words]
    values = {
        "job": load_job(None, keys), "hardware": machines(), "best": prediction(limit, 10 * limit),
        "asked": [prediction(count, 10 * count if count <= limit else 40) for count in asked],
        "larger": lambda count, factor: prediction(count, 40.0 * factor) if factor <= 8 else None,
        "smaller": lambda budget: prediction(1, 10, 1e6 * budget), "steps": 10_000, **changes,
    }  # fmt: skip
    return advice.advice(advice.Question(**values))


def shared(workers: int) -> Hardware:
    """Machines whose workers share cores: one alone is as fast as all of them."""
    return replace(machines(), speeds=dict.fromkeys((1, workers), machines().speeds[4]),
                   workers_per_machine=workers)  # fmt: skip


LARGER = (
    "batches of 32; with train.batch_size=64 optim.lr=0.0014 (Adam: the root of the factor; check "
    "the scores), 16 reach 50% of linear; for the same loss they "
)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"asked": (1,), "limit": 1}, "one worker is worth it"),
        ({"asked": (1,), "limit": 8}, "one worker is worth it; more are, up to 8"),
        ({"limit": 16}, "16 workers are worth it (100% of linear)"),
        ({"asked": (2,), "hardware": shared(2), "limit": 2}, "2 workers are worth it"),
        (
            {"asked": (1, 2), "hardware": shared(2), "limit": 1},
            "take one worker: 2 share one machine, and are no faster",
        ),
        (
            {},
            f"take at most 4 workers for {LARGER}may need up to 2 times the examples: the gradient "
            "noise scale is not known",
        ),
        (
            {"limit": 1, "noise": NoiseScale(32.0)},
            f"take one worker for {LARGER}need 1.5 times the examples (beyond the critical batch "
            "size of 32), in 0.75 of the time of 1",
        ),
        (
            {"noise": NoiseScale(320.0)},
            f"take at most 4 workers for {LARGER}need 1.1 times the examples, in 0.55 of the time "
            "of 4",
        ),
        (
            {"noise": NoiseScale(32.0, exact=False)},
            f"take at most 4 workers for {LARGER}need at most 1.5 times the examples, in at most "
            "0.75 of the time of 4",
        ),
        (
            {"asked": (1, 16, 512), "limit": 1},
            f"take one worker for {LARGER}may need up to 2 times the examples: the gradient noise "
            "scale is not known; batches for 512 would leave less than 100 steps",
        ),
        ({"words": ("train.max_steps=25",)}, "... optim.lr=0.0014 train.max_steps=13 (Adam"),
        (
            {"larger": lambda count, factor: None},
            "take at most 4 workers for batches of 32: the dataset has no batches that are large "
            "enough for 16",
        ),
        (
            {"steps": 150},
            "take at most 4 workers for batches of 32: the batches of 64 that 16 need would leave "
            "less than 100 steps",
        ),
        (
            {"hardware": machines(memory=0.5e9), "asked": (1,)},
            "one worker: 1.0 GB each, and there are 0.5: train.token_budget=256 fits; the rest of "
            "a share is accumulated",
        ),
        (
            {"hardware": machines(memory=0.5e8)},
            "... GB each, and there are 0.1, with any train.token_budget: take "
            "train.recompute=true or adapter.kind=lora or a smaller data.max_length or a smaller "
            "model",
        ),
        (
            {
                "hardware": machines(memory=0.5e8),
                "words": ("adapter.kind=lora", "train.recompute=true", "model.name=x"),
            },
            "... budget: take adapter.bits=4 or a smaller data.max_length or a smaller model",
        ),
    ],
)
def test_one_line_of_advice(given: dict[str, object], line: str) -> None:
    found = advised(**given)  # type: ignore[arg-type]
    assert found == line or (line.startswith("... ") and line[4:] in found)


def test_larger_batches_cost_examples_by_the_noise_scale() -> None:
    """At the critical batch size, steps and examples are twice their least."""
    noise = NoiseScale(200.0)
    assert noise.fewer_steps(200, 10**9) == pytest.approx(1 / 2)
    assert noise.more_examples(1, 200) == pytest.approx(2, rel=1e-2)
    rows = list(batch_sizes(noise, 100, lambda k: prediction(4, 10.0 * k) if k <= 2 else None))
    assert rows == [
        ["100", "1000.0", "1.00", "1.00", "1.00"], ["200", "1000.0", "0.67", "1.33", "0.67"]
    ]  # fmt: skip


def test_the_noise_scale_is_that_of_the_jobs_own_run(tmp_path: Path) -> None:
    words = [f"run.dir={tmp_path}", "job.name=noisy"]
    job, run = load_job(None, words), tmp_path / "noisy"
    found, about = find_noise_scale(job)
    assert found is None and "not known" in about
    run.mkdir()
    lines = [{"step": 10, "noise_scale": 50.0}, {"step": 20, "noise_scale": 70.0}, {"step": 30}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"st')
    assert find_noise_scale(job)[0] is None, "without job.json, it may be anything's"
    (run / "job.json").write_text(json.dumps({"job": job.to_dict()}))
    found, about = find_noise_scale(job)
    assert found == NoiseScale(70.0) and f": 70 examples, at step 20 of {run}" in about
    assert find_noise_scale(load_job(None, [*words, "train.batch_size=64"]))[0] == found
    found, about = find_noise_scale(load_job(None, [*words, "data.max_length=32"]))
    assert found is None and "which has another data.max_length" in about
    with open(run / "metrics.jsonl", "a") as file:
        file.write('\n{"step": 40, "noise_scale_at_least": 30.0}\n')
    found, about = find_noise_scale(job)
    assert found == NoiseScale(30.0, exact=False) and "more than 30 examples" in about
    (run / "job.json").write_text("{")
    assert find_noise_scale(job)[0] is None


def test_shares_are_run_by_as_many_workers_as_share_a_machine() -> None:
    assert shares_to_run([1, 2, 8, 64, 512], 2, 64) == {1: [1, 4, 16, 64], 2: [2, 8, 32, 64]}
    assert shares_to_run([64], 8, 64) == {1: [1, 4, 16, 64], 8: [8, 32, 64]}
    assert shares_to_run([1], 1, 1) == {1: [1]}
    assert shares_to_run([4], 4, 2) == {1: [1], 4: [4]}


@pytest.mark.parametrize(("second", "share"), [("cpu", True), ("cuda", False)])
def test_all_workers_of_a_calibration_share_weights_or_none(second: str, share: bool) -> None:
    """Whichever of them sees a GPU: building a step with shared weights takes all of them."""

    def decide(world: World) -> bool:
        world.local_size = world.size
        device = torch.device(("cpu", second)[world.rank])
        return all_share_weights(load_job(None), world, device)

    assert on_workers(2, decide) == [share] * 2


def test_horovodrun_is_that_of_this_python_and_is_looked_for_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("DISTSENT_TRANSPORT", "horovod")
    monkeypatch.setattr(calibrate.subprocess, "Popen", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(UserError, match=f"there is no {tmp_path}/horovodrun; make setup") as caught:
        calibrate.calibrate(load_job(None), {1: [1], 2: [2]}, [], cast(StopSignal, None))
    assert caught.value.code == 2
    (tmp_path / "horovodrun").touch()
    python, horovodrun = str(tmp_path / "python"), str(tmp_path / "horovodrun")
    expected = [python, horovodrun, "-np", "2", python, "-m", "x"]
    assert calibrate.worker_command(["-m", "x"], 2, "auto") == expected
    assert local_command(["-m", "x"], 2, "auto") == expected
    launch = [python, "-m", "distsent.launch", "--nproc-per-node=1", "-m", "x"]
    assert calibrate.worker_command(["-m", "x"], 1, "auto") == launch


def test_presets_are_complete_and_say_where_their_numbers_are_from() -> None:
    for name in presets():
        found = read_hardware(name)
        assert found.has_speed and found.values["sources"]
        for precision in found.values["peak_flops"]:
            speed = found.speed(precision, 12, 10**8)
            assert 0 < speed.flop < 1e-9 and 0 < speed.update < 10
        assert found.fastest() in found.values["peak_flops"]
    with pytest.raises(UserError, match=r"peak_flops has no bf16: train\.precision is"):
        read_hardware("v100").speed("bf16", 12, 1)


PRESET = presets()["a100"]
NET = {"latency": 1e-5, "bandwidth": 1e9}


@pytest.mark.parametrize(
    ("found", "line"),
    [
        ({**PRESET, "peak": 1}, "unknown key peak; known: about, "),
        ({key: PRESET[key] for key in PRESET if key != "achieved"}, "achieved is missing"),
        ({key: PRESET[key] for key in PRESET if key != "between"}, "between is missing"),
        ({**PRESET, "achieved": {"bf16": 1.5}}, "achieved.bf16 = 1.5: expected a number > 0, at"),
        ({**PRESET, "achieved": 0.3}, "achieved: expected a table such as achieved = {"),
        ({**PRESET, "peak_flops": {"int8": 1e12}}, "unknown key peak_flops.int8; known: float32"),
        ({**PRESET, "gpu": "yes"}, "gpu = yes: expected true or false"),
        ({**PRESET, "memory": -1}, "memory = -1: expected a number > 0"),
        ({**PRESET, "memory": True}, "memory = True: expected a number > 0"),
        ({**PRESET, "workers_per_machine": 1.5}, "expected a whole number from 1"),
        ({**PRESET, "price": math.nan}, "price = nan: expected a number > 0"),
        ({**PRESET, "within": {"latency": 1e-5}}, "within.bandwidth is missing"),
        ({**PRESET, "sources": 5}, "sources = 5: expected a list of texts"),
        ({**PRESET, "sources": "NVIDIA"}, "sources = NVIDIA: expected a list of texts"),
        ({**PRESET, "about": ["a"]}, "about = ['a']: expected text in quotes"),
        ({"between": NET, "workers_per_machine": 8}, "workers_per_machine: applies only beside "),
        ({"between": {**NET, "speed": 1}}, "unknown key between.speed; known: latency"),
        ({"between": {**NET, "algorithm": "star"}}, "algorithm = 'star': expected \"ring\" or"),
        ({"between": "fast"}, "between: expected a table such as between = {"),
        ({}, "between is missing"),
    ],
)
def test_a_wrong_description_is_one_line(found: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        describe("mine.toml", found)
    assert len(caught.value.lines) == 1, caught.value.lines
    assert caught.value.lines[0].startswith("mine.toml: ") and line in caught.value.lines[0]


def test_a_file_may_describe_the_network_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("price = 2\n[between]\nlatency = 1e-5\nbandwidth = 3e9\n")
    found = read_hardware(str(file))
    assert not found.has_speed and found.between == Link(1e-5, 3e9)
    file.write_text("= 3")
    with pytest.raises(UserError, match=r"mine\.toml: not TOML"):
        read_hardware(str(file))
    with pytest.raises(UserError, match="no such file; did you mean a100"):
        read_hardware("a1000")


@pytest.mark.parametrize(
    "text", ["0", "-1", "two", "", "1,", "1,,2", "1.5", "1e3", "²", "99999999999", "1;2"]
)
def test_wrong_numbers_of_workers_are_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        plan.main([f"--workers={text}"])
    assert len(caught.value.lines) == 1 and caught.value.code == 2
    assert f"--workers {text}" in str(caught.value) and "e.g. 1,2,8,64" in str(caught.value)


def test_a_plan_for_described_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    source = fixtures.corpus(tmp_path / "data", train=60, validation=20, test=40)
    encoder = systems.encoder(tmp_path / "encoder", "bert")
    words = [
        f"data.source={source}", f"model.name={encoder}", "data.max_length=40",
        "train.batch_size=8", "run.dir=runs", "job.name=planned", "train.precision=auto",
    ]  # fmt: skip
    asked = ["--workers", "64,1, 2,8", "--hardware", "a100"]
    assert plan.main([*words, *asked, "--json", "--picture", "new/plan.png"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["workers"] for each in found] == [1, 2, 8, 64]
    for each in found:
        assert each["step_seconds"] == pytest.approx(sum(each["parts"].values()))
        assert each["samples_per_second"] * each["step_seconds"] == pytest.approx(7.5)
        assert not each["measured"] and each["memory_bytes"] > 0
    assert found[0]["efficiency"] == pytest.approx(1) and found[1]["efficiency"] < 1
    assert [each["workers_without_examples"] for each in found] == [0, 0, 0, 56]
    assert found[3]["machines"] == 8 and not found[3]["worth_it"]
    assert Path("new/plan.png").stat().st_size > 10_000
    assert not Path("runs/planned").exists()
    assert plan.main([*words, *asked]) == 0
    out = capsys.readouterr().out
    assert "not measured: computed from a description" in out and "source: NVIDIA" in out
    assert "only 8 of 64 workers get any" in out and "advice: take one worker for" in out
    assert len([line for line in out.splitlines() if line.startswith("|")]) == 6
    whole = [*words[:3], "train.batch_size=100000", *words[4:]]
    assert plan.main([*whole, *asked]) == 0
    out = capsys.readouterr().out
    assert "steps of 60, " in out and "a batch has 60 examples: only 60 of 64 workers" in out
    assert "for batches of 60" in out
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(UserError, match="start it alone"):
        plan.main(words)
