"""Writes some packs of `families/` with Hugging Face's own code: transformers 5.24, torch 2.15.

usage: HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python more_families.py      (in this folder; needs no network)
"""
import json
import random
import shutil

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

STEPS, BATCH = 10, 3
SIZES = dict(vocab_size=60, num_hidden_layers=2, num_attention_heads=3, max_position_embeddings=40, initializer_range=0.2,
             hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
BERT = BertConfig(**SIZES, hidden_size=15, intermediate_size=22, num_labels=3, hidden_act="silu", type_vocab_size=3)
PACKS = {
    # Three numbers a row; the problem type follows from the labels where the configuration says none.
    "bert-regression3": (BertForSequenceClassification, BertConfig(**{**BERT.to_dict(), "problem_type": "regression"}), "sequence-classification"),
    "bert-multi-untold": (BertForSequenceClassification, BERT, "sequence-classification"),
    "roberta-pad5": (RobertaForMaskedLM, RobertaConfig(**SIZES, hidden_size=21, intermediate_size=22, pad_token_id=5, type_vocab_size=2,
                                                       hidden_act="gelu_pytorch_tanh"), "masked-lm"),
    "electra-wide-table": (ElectraForMaskedLM, ElectraConfig(**SIZES, hidden_size=12, intermediate_size=20, embedding_size=18,
                                                             hidden_act="gelu_new"), "masked-lm"),
    "gpt2-clm-head9": (GPT2LMHeadModel, GPT2Config(vocab_size=60, n_embd=27, n_head=3, n_layer=2, n_positions=40, n_inner=20, initializer_range=0.2,
                                                   resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, activation_function="gelu_pytorch_tanh",
                                                   layer_norm_epsilon=1e-2, reorder_and_upcast_attn=True, scale_attn_by_inverse_layer_idx=True,
                                                   bos_token_id=0, eos_token_id=0, pad_token_id=0), "causal-lm"),
    # Padding in the middle and at the end of rows, which their attention masks do not hide.
    "gpt2-seq-pads": (GPT2ForSequenceClassification, GPT2Config(vocab_size=60, n_embd=18, n_head=3, n_layer=2, n_positions=40, initializer_range=0.2,
                                                                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
                                                                pad_token_id=0, num_labels=3), "sequence-classification"),
    "roberta-seq-pads": (RobertaForSequenceClassification, RobertaConfig(**SIZES, hidden_size=18, intermediate_size=25, pad_token_id=1, type_vocab_size=1,
                                                                         num_labels=3), "sequence-classification"),
    # Segments, which this family does not know, are passed over.
    "distil-seq-segments": (DistilBertForSequenceClassification, DistilBertConfig(vocab_size=60, dim=18, n_heads=3, n_layers=2, hidden_dim=25, dropout=0.0,
                                                                                  max_position_embeddings=40, initializer_range=0.2, attention_dropout=0.0,
                                                                                  seq_classif_dropout=0.0, num_labels=3), "sequence-classification"),
}


def rows_of(name, config, task, rng):
    rows = []
    for number in range(STEPS * BATCH):
        length = rng.randint(4, 24 if number % 3 else 9)
        ids = [rng.randint(6, 59) for _ in range(length)]
        row = {"input_ids": ids, "attention_mask": [1] * length}
        if name.endswith("pads"):
            ids[1:] = [config.pad_token_id if rng.random() < 0.3 else token for token in ids[1:]]
        if name.startswith("bert") or name.endswith("segments"):
            row["token_type_ids"] = [0] * (length // 2) + [1 + number % 2] * (length - length // 2)
        if name.endswith(("pads", "segments")):
            row["labels"] = number % 3
        elif task == "causal-lm":
            row["labels"] = list(ids)
        elif task == "masked-lm":
            row["labels"] = [token if rng.random() < 0.4 or place == 1 else -100 for place, token in enumerate(ids)]
        elif config.problem_type == "regression":
            row["labels"] = [round(rng.uniform(-2, 2), 3) for _ in range(3)]
        else:
            row["labels"] = [float(rng.random() < 0.5) for _ in range(3)]
        rows.append(row)
    return rows


def collate(rows, pad, per_token):
    longest = max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0, **({"labels": -100} if per_token else {})}
    fill = lambda key, values: values + [fills[key]] * (longest - len(values)) if key in fills else values
    return {key: torch.tensor([fill(key, row[key]) for row in rows]) for key in rows[0]}


def logits(model, rows, per_token):
    model.eval()
    with torch.no_grad():
        each = [model(**{key: torch.tensor([row[key]]) for key in row if key != "labels"}).logits[0] for row in rows]
    return [(scores[:, :16] if per_token else scores).tolist() for scores in each]


class Sequential(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


for name, (cls, config, task) in PACKS.items():
    folder, seed, per_token = f"families/{name}", sum(map(ord, name)), task != "sequence-classification"
    set_seed(seed)
    model = cls(config)
    if task == "causal-lm":
        # Said to it, the Trainer divides by the labels that are asked for; GPT-2 itself does not say that labels are shifted.
        model.loss_type = "ForCausalLM"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    rows = rows_of(name, config, task, random.Random(seed))
    settings = dict(learning_rate=1e-3, weight_decay=0.01, warmup_steps=2, lr_scheduler_type="linear", max_grad_norm=1.0)
    before = logits(model, rows[-3:], per_token)
    args = TrainingArguments(output_dir="/tmp/unused", per_device_train_batch_size=BATCH, max_steps=STEPS, logging_steps=1, save_strategy="no",
                             report_to=[], use_cpu=True, remove_unused_columns=False, disable_tqdm=True, **settings)
    trainer = Sequential(model=model, args=args, train_dataset=rows, data_collator=lambda rows: collate(rows, config.pad_token_id or 0, per_token))
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    reference = {"task": task, "config": {**settings, "batch_size": BATCH, "steps": STEPS}, "features": rows, "logits_before": before,
                 "loss": [entry["loss"] for entry in steps], "grad_norm": [entry["grad_norm"] for entry in steps],
                 "logits_after": logits(model, rows[-3:], per_token)}
    with open(f"{folder}/reference.json", "w") as file:
        json.dump(reference, file, separators=(",", ":"))
        file.write("\n")
