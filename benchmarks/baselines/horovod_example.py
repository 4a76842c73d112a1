"""Horovod's own PyTorch example: DistributedSampler, DistributedOptimizer, rows of one length."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.baselines.rows import SameOrder, rows
from benchmarks.baselines.trainer import build_model


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    hvd.init()
    rank, size, same = hvd.rank(), hvd.size(), work["order"] == "distsent"
    torch.set_num_threads(work["threads"])
    tokenizer = AutoTokenizer.from_pretrained(work["encoder"])
    examples = rows(work, tokenizer)
    pad = work["pad"]
    cut = {"input_ids": [x["input_ids"][:pad] for x in examples]}
    padded = tokenizer.pad(cut, padding="max_length", max_length=pad, return_tensors="pt")
    labels = torch.tensor([x["label"] for x in examples])
    data = TensorDataset(padded["input_ids"], padded["attention_mask"], labels)
    sampler: Any = DistributedSampler(data, size, rank, seed=work["seed"])
    if same:
        sampler = SameOrder(work, len(data), rank, size)
    loader = DataLoader(data, batch_size=work["batch_size"] // size, sampler=sampler)
    model = build_model(work, max(x["label"] for x in examples) + 1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=work["lr"], weight_decay=0.0)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    schedule = get_linear_schedule_with_warmup(optimizer, 0, work["steps"])
    ends, losses, tokens = [], [], []
    batches = iter(loader)
    for _ in range(work["steps"]):
        ids, mask, labels = next(batches)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=work["precision"] == "bf16"):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.synchronize()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with optimizer.skip_synchronize():
            optimizer.step()
        schedule.step()
        losses.append(hvd.allreduce(loss.detach()).item() if same else loss.item())
        ends.append(time.perf_counter())
        if len(ends) == 1:
            Path(work["out"]).with_name("first").touch()
        tokens.append(int(mask.sum()))
    warmup, steps = work["warmup"], work["steps"]
    real = hvd.allreduce(torch.tensor(float(sum(tokens[warmup:]))), op=hvd.Sum).item()
    if rank == 0:
        seconds = ends[-1] - ends[warmup - 1]
        out = {
            "examples_per_second": work["batch_size"] * (steps - warmup) / seconds,
            "tokens_per_second": real / seconds,
            "losses": losses,
            "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "bytes_per_step": 4 * sum(p.numel() for p in model.parameters()),
        }
        Path(work["out"]).write_text(json.dumps(out))


if __name__ == "__main__":
    main()
