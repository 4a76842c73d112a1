"""Training as Horovod's own PyTorch example does it: a DistributedSampler, a DistributedOptimizer, rows padded to one length."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import horovod.torch as hvd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.rivals.rows import rows


def main() -> None:
    work = json.loads(Path(sys.argv[1]).read_text())
    hvd.init()
    torch.set_num_threads(work["threads"])
    torch.manual_seed(work["seed"])
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    examples = rows(work, tokenizer)
    classes = max(x["label"] for x in examples) + 1
    padded = tokenizer.pad(
        {"input_ids": [x["input_ids"][: work["pad"]] for x in examples]}, padding="max_length", max_length=work["pad"]
    )
    data = torch.utils.data.TensorDataset(
        torch.tensor(padded["input_ids"]), torch.tensor(padded["attention_mask"]), torch.tensor([x["label"] for x in examples])
    )
    sampler = torch.utils.data.distributed.DistributedSampler(data, num_replicas=hvd.size(), rank=hvd.rank(), seed=work["seed"])
    loader = torch.utils.data.DataLoader(data, batch_size=work["batch_size"] // hvd.size(), sampler=sampler)
    model = AutoModelForSequenceClassification.from_pretrained(work["model"], num_labels=classes, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=work["lr"], weight_decay=0.0)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    schedule = get_linear_schedule_with_warmup(optimizer, 0, work["steps"])
    ends, losses = [], []
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
        losses.append(loss.item())
        ends.append(time.perf_counter())
    if hvd.rank() == 0:
        out = {
            "examples_per_second": work["batch_size"] * (work["steps"] - work["warm"]) / (ends[-1] - ends[work["warm"] - 1]),
            "losses": losses,
            "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "bytes_per_step": 4 * sum(p.numel() for p in model.parameters()),
        }
        with open(work["out"], "w") as file:
            json.dump(out, file)


if __name__ == "__main__":
    main()
