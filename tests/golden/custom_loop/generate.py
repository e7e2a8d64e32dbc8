"""Training loops in torch and transformers, without dropout, on the models of ../parity/families.

usage: python generate.py   (writes loop.json beside it; transformers 5.24, torch 2.15)

`groups`: AdamW with parameter groups, `get_scheduler`, gradients accumulated over two batches, clipping.
`trainer`: Trainer with `compute_loss_func`, sums divided by `num_items_in_batch`, two batches an update.
`weighted`: Trainer with torch's weighted cross entropy.
"""

import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (AutoModelForSequenceClassification, AutoModelForTokenClassification, Trainer,
                          TrainingArguments, get_scheduler)

HERE = Path(__file__).parent
FAMILIES = HERE.parent / "parity" / "families"
torch.set_num_threads(1)


def pack(name):
    return json.loads((FAMILIES / name / "reference.json").read_text())["features"]


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {}
    for row in rows:
        n = len(row["input_ids"])
        filled = {
            "input_ids": row["input_ids"] + [0] * (longest - n),
            "token_type_ids": row.get("token_type_ids", [0] * n) + [0] * (longest - n),
            "attention_mask": [1] * n + [0] * (longest - n),
            "labels": row["labels"] + [-100] * (longest - n) if isinstance(row["labels"], list) else row["labels"],
        }
        for key, value in filled.items():
            batch.setdefault(key, []).append(value)
    return {key: torch.tensor(value) for key, value in batch.items()}


def logits(model, rows):
    """The scores of each row's own tokens, or of each row."""
    model.eval()
    found = []
    with torch.no_grad():
        for row in rows:
            found += model(**collate([row])).logits.reshape(-1, model.config.num_labels).tolist()
    return found


def groups(name, kwargs, n_updates, accumulation):
    rows = pack("bert-tok")
    model = AutoModelForTokenClassification.from_pretrained(FAMILIES / "bert-tok")
    named = dict(model.named_parameters())
    head = [key for key in named if key.startswith("classifier.")]
    first = [key for key in named if key.startswith("bert.encoder.layer.0.")]
    rest = [key for key in named if key not in head + first]
    optimizer = torch.optim.AdamW([
        {"params": [named[key] for key in head], "lr": 1e-2, "weight_decay": 0.0},
        {"params": [named[key] for key in first], "lr": 1e-4, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6},
        {"params": [named[key] for key in rest]},
    ], lr=5e-4, weight_decay=0.02)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=n_updates,
                              scheduler_specific_kwargs=kwargs)
    model.train()
    trace = {"loss": [], "grad_norm": [], "lr": []}
    for update in range(n_updates):
        total = 0.0
        for part in range(accumulation):
            start = (update * accumulation + part) * 3 % 45
            loss = model(**collate(rows[start:start + 3])).loss / accumulation
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        trace["loss"].append(total)
        trace["grad_norm"].append(norm.item())
        trace["lr"].append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return {"name": name, "kwargs": kwargs, "n_updates": n_updates, "accumulation": accumulation, **trace,
            "logits": logits(model, rows[:4])}


def trainer(cls, folder, compute_loss_func, **given):
    rows = pack(folder)
    model = cls.from_pretrained(FAMILIES / folder)
    args = TrainingArguments(output_dir="/tmp/out", max_steps=8, per_device_train_batch_size=4, learning_rate=1e-3,
                             logging_steps=1, save_strategy="no", report_to="none", use_cpu=True,
                             train_sampling_strategy="sequential", disable_tqdm=True, **given)
    run = Trainer(model=model, args=args, train_dataset=rows, data_collator=collate,
                  compute_loss_func=compute_loss_func)
    run.train()
    logs = [log for log in run.state.log_history if "loss" in log]
    return {"loss": [log["loss"] for log in logs], "grad_norm": [log["grad_norm"] for log in logs],
            "logits": logits(model, rows[:4])}


def by_window(outputs, labels, num_items_in_batch=None):
    scores = outputs.logits.reshape(-1, outputs.logits.shape[-1])
    total = cross_entropy(scores, labels.reshape(-1), reduction="sum", label_smoothing=0.2)
    return total / (num_items_in_batch if num_items_in_batch is not None else labels.ne(-100).sum())


WEIGHTS = [0.25, 2.0, 1.5]


def weighted(outputs, labels, num_items_in_batch=None):
    return cross_entropy(outputs.logits, labels, weight=torch.tensor(WEIGHTS[:outputs.logits.shape[-1]]))


def main():
    token, sequence = AutoModelForTokenClassification, AutoModelForSequenceClassification
    found = {
        "groups": [groups("cosine", {"num_cycles": 0.75}, 12, 2), groups("polynomial", {"lr_end": 1e-5, "power": 2.0}, 6, 1)],
        "trainer": trainer(token, "bert-tok", by_window, gradient_accumulation_steps=2),
        "weighted": {"weights": WEIGHTS, **trainer(sequence, "electra-seq-same", weighted)},
    }
    (HERE / "loop.json").write_text(json.dumps(found) + "\n")


main()
