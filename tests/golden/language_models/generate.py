"""Writes the models and the numbers of this folder with Hugging Face's own code: transformers 5.24, datasets 5.2, torch 2.15.

usage: HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 python generate.py      (in this folder; needs no network)

None of the numbers was made by the program under test.
"""
import json
import math
import shutil

import datasets
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    Trainer,
    TrainingArguments,
    default_data_collator,
    pipeline,
    set_seed,
)

SUBJECTS = ["the old ferry", "a small red lantern", "her brother", "the baker", "this river", "nobody", "the last train", "my neighbour"]
VERBS = ["waits for", "never forgets", "carries", "paints", "follows", "listens to", "hides from", "remembers"]
OBJECTS = ["the morning fog", "a song about rain", "three blue boats", "the café owner", "an unread letter", "the mountain", "two tired horses"]
LINES = [f"{s} {v} {o}" for i, s in enumerate(SUBJECTS) for j, v in enumerate(VERBS) for k, o in enumerate(OBJECTS) if (i + 2 * j + 3 * k) % 5 == 0]


def byte_bpe(folder, special, **named):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=256 + len(special) + 60, special_tokens=special,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator(LINES, trainer)
    if "cls_token" in named:
        ids = [(t, tok.token_to_id(t)) for t in (named["sep_token"], named["cls_token"])]
        tok.post_processor = processors.RobertaProcessing(*ids, add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=32, **named)
    fast.save_pretrained(folder)
    return fast


def wordpiece(folder):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    tok.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    ids = [(t, tok.token_to_id(t)) for t in ("[SEP]", "[CLS]")]
    tok.post_processor = processors.BertProcessing(*ids)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=32, pad_token="[PAD]", unk_token="[UNK]",
                                   cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    fast.save_pretrained(folder)
    return fast


def gpt2(folder, seed, **config):
    set_seed(seed)
    config = GPT2Config(**config, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    GPT2LMHeadModel(config).eval().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def learn(folder, tok, model, masks):
    """A few steps, so that scores differ from token to token and some guesses are right."""
    model.train()
    set_seed(9)
    collator = DataCollatorForLanguageModeling(tok, mlm=True, seed=9) if masks else None
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(120):
        rows = [tok(LINES[(11 * step + k) % len(LINES)])["input_ids"] for k in range(12)]
        if masks:
            batch = collator([{"input_ids": row} for row in rows])
            loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        else:
            loss = sum(model(input_ids=torch.tensor([row]), labels=torch.tensor([row])).loss for row in rows) / len(rows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(folder, "loss", loss.item())
    model.eval().save_pretrained(folder)


def make_models():
    for name in ["gpt2-plain", "gpt2-odd", "bert-mlm", "roberta-mlm"]:
        shutil.rmtree(name, ignore_errors=True)
    end = "<|endoftext|>"
    tok = byte_bpe("gpt2-plain", [end], bos_token=end, eos_token=end, unk_token=end)
    size = dict(vocab_size=len(tok), n_positions=32)
    learn("gpt2-plain", tok, gpt2("gpt2-plain", 1, **size, n_embd=24, n_layer=2, n_head=3, initializer_range=0.1), masks=False)
    # Odd head size, no tied matrix, other activation and scales, a generation_config of its own.
    tok.save_pretrained("gpt2-odd")
    odd = gpt2("gpt2-odd", 2, **size, n_embd=21, n_layer=3, n_head=3, n_inner=40, initializer_range=0.2,
               activation_function="relu", scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False,
               layer_norm_epsilon=1e-3, tie_word_embeddings=False)
    learn("gpt2-odd", tok, odd, masks=False)
    odd.generation_config.update(max_new_tokens=9, repetition_penalty=1.2, eos_token_id=[0, 7], do_sample=False)
    odd.save_pretrained("gpt2-odd")
    tok = wordpiece("bert-mlm")
    set_seed(3)
    bert = BertForMaskedLM(BertConfig(vocab_size=len(tok), hidden_size=20, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
                               max_position_embeddings=32, initializer_range=0.1, hidden_dropout_prob=0.0,
                               attention_probs_dropout_prob=0.0, pad_token_id=0))
    learn("bert-mlm", tok, bert, masks=True)
    tok = byte_bpe("roberta-mlm", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], bos_token="<s>", eos_token="</s>", cls_token="<s>",
                   sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    set_seed(4)
    roberta = RobertaForMaskedLM(RobertaConfig(vocab_size=len(tok), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                                     max_position_embeddings=34, type_vocab_size=1, initializer_range=0.1, hidden_dropout_prob=0.0,
                                     attention_probs_dropout_prob=0.0))
    learn("roberta-mlm", tok, roberta, masks=True)


def load(name):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(name)


def generation():
    """Greedy sequences of `generate`, with the first 8 scores of each new token."""
    out = []
    for name in ["gpt2-plain", "gpt2-odd"]:
        model, tok = AutoModelForCausalLM.from_pretrained(name).eval(), load(name)
        for text in ["the old ferry", "two", "nobody paints the café", "my neighbour hides from a song about"]:
            for options in [{}, {"max_new_tokens": 6}, {"max_length": 31, "repetition_penalty": 1.0}, {"repetition_penalty": 1.5, "max_new_tokens": 11},
                            {"no_repeat_ngram_size": 2, "max_new_tokens": 12, "repetition_penalty": 1.0}, {"no_repeat_ngram_size": 1, "max_new_tokens": 5},
                            {"stop_strings": ["s", "the m"], "max_new_tokens": 12}, {"stop_strings": "er", "max_new_tokens": 12}]:
                ids = tok(text, return_tensors="pt")
                extra = {"tokenizer": tok} if "stop_strings" in options else {}
                got = model.generate(**ids, **options, **extra, output_logits=True, return_dict_in_generate=True)
                sequence = got.sequences[0].tolist()
                out.append({"model": name, "text": text, "prompt": ids.input_ids[0].tolist(), "options": options, "sequence": sequence,
                            "scores": [[round(float(x), 6) for x in s[0][:8]] for s in got.logits],
                            "text_after": tok.decode(sequence[ids.input_ids.shape[1]:], skip_special_tokens=True)})
        # Ends of text: what greedy search takes first is made the end, and then forbidden for a while.
        ids = tok("this river", return_tensors="pt")
        free = model.generate(**ids, max_new_tokens=12, eos_token_id=None)[0].tolist()[ids.input_ids.shape[1]:]
        for options in [{"eos_token_id": free[3]}, {"eos_token_id": [free[5], free[2]]}, {"eos_token_id": free[1], "min_new_tokens": 5},
                        {"eos_token_id": free[0], "min_length": ids.input_ids.shape[1] + 3}]:
            got = model.generate(**ids, max_new_tokens=12, **options)[0].tolist()
            out.append({"model": name, "text": "this river", "prompt": ids.input_ids[0].tolist(), "options": {"max_new_tokens": 12, **options},
                        "sequence": got, "scores": [], "text_after": tok.decode(got[ids.input_ids.shape[1]:], skip_special_tokens=True)})
    return out


def sampling():
    """The probabilities that `generate` draws from, after its logits processors."""
    model, tok = AutoModelForCausalLM.from_pretrained("gpt2-plain").eval(), load("gpt2-plain")
    ids = tok("the baker carries the", return_tensors="pt").input_ids
    with torch.no_grad():
        scores = model(ids).logits[:, -1] / 2.5
    out = []
    for options in [{}, {"temperature": 0.7}, {"top_k": 0}, {"top_k": 5}, {"top_k": 0, "top_p": 0.9}, {"top_k": 20, "top_p": 0.5, "temperature": 1.7},
                    {"top_p": 0.01}, {"top_k": 0, "min_p": 0.05}, {"repetition_penalty": 2.5, "top_k": 30, "top_p": 0.95, "temperature": 1.3},
                    {"no_repeat_ngram_size": 1, "top_k": 10}]:
        config, _ = model._prepare_generation_config(None, do_sample=True, **options)
        model._prepare_special_tokens(config)
        steps = model._get_logits_processor(config, input_ids_seq_length=ids.shape[1])
        probabilities = torch.softmax(steps(ids, scores.clone()), -1)[0]
        kept = probabilities.nonzero().squeeze(-1).tolist()
        out.append({"options": options, "probabilities": {str(i): float(probabilities[i]) for i in kept}})
    return {"tokens": ids[0].tolist(), "scores": scores[0].tolist(), "cases": out}


def pipelines():
    fill, text = [], []
    masks = {"bert-mlm": "[MASK]", "roberta-mlm": "<mask>"}
    for name, mask in masks.items():
        pipe = pipeline("fill-mask", model=name)
        for inputs, options in [(f"the old {mask} waits for rain", {}), (f"the {mask} waits for the {mask}", {"top_k": 2}),
                                (f"the old ferry {mask}", {"targets": ["waits", "the"]}), (f"{mask} baker", {"targets": "paints", "top_k": 3}),
                                ([f"a small {mask} lantern", f"this {mask} hides from {mask}"], {"top_k": 3}),
                                (f"nobody paints the café {mask}", {"top_k": 7, "targets": ["zebra", "ra", "the", "a"]})]:
            fill.append({"model": name, "input": inputs, "options": options, "result": pipe(inputs, **options)})
    for name in ["gpt2-plain", "gpt2-odd"]:
        pipe = pipeline("text-generation", model=name)
        for inputs, options in [("the old ferry", {}), (["two tired", "my neighbour hides"], {"max_new_tokens": 7}), ("nobody", {"return_full_text": False, "max_new_tokens": 5}),
                                ("", {"max_new_tokens": 6}), ("the last train", {"max_length": 12}), ("a song", {"stop_sequence": "e", "max_new_tokens": 14})]:
            options = {"do_sample": False, **options}
            if name == "gpt2-plain" and "max_new_tokens" not in options and "max_length" not in options:
                options["max_new_tokens"] = 10  # 256, the default, exceed its positions
            text.append({"model": name, "input": inputs, "options": options, "result": pipe(inputs, **options)})
    return {"fill_mask": fill, "text_generation": text}


def group_texts(examples, block_size):
    """As in examples/pytorch/language-modeling/run_clm.py."""
    concatenated = {k: [x for row in examples[k] for x in row] for k in examples.keys()}
    total = len(concatenated[list(examples.keys())[0]])
    total = (total // block_size) * block_size
    result = {k: [t[i : i + block_size] for i in range(0, total, block_size)] for k, t in concatenated.items()}
    result["labels"] = result["input_ids"].copy()
    return result


def blocks():
    rows = [{"input_ids": [(i + 3 * j) % 97 for j in range((i * 7) % 5)]} for i in range(2345)]
    data = datasets.Dataset.from_list(rows)
    grouped = data.map(lambda examples: group_texts(examples, 16), batched=True, load_from_cache_file=False)
    return {"block_size": 16, "blocks": [row["input_ids"] for row in grouped]}


def evaluation():
    """What run_clm and run_mlm report of a model: loss, accuracy, perplexity."""
    args = dict(output_dir="/tmp/unused", per_device_eval_batch_size=3, report_to=[], use_cpu=True)
    rows = [{"text": line} for line in LINES[:30]] + [{"text": ""}] + [{"text": line} for line in LINES[30:]]
    tok, model = load("gpt2-plain"), AutoModelForCausalLM.from_pretrained("gpt2-plain").eval()
    # GPT-2 says no loss type, so the Trainer of transformers 5.24 does not know that its labels are shifted, and divides the sum
    # over 19 of a block's 20 tokens by 20. Said to it, it divides by what is asked for, as model(...).loss does.
    model.loss_type = "ForCausalLM"
    data = datasets.Dataset.from_list(rows).map(lambda e: tok(e["text"]), batched=True, remove_columns=["text"], load_from_cache_file=False)
    data = data.map(lambda e: group_texts(e, 20), batched=True, load_from_cache_file=False)

    def causal(pred):
        labels, preds = pred.label_ids[:, 1:].reshape(-1), pred.predictions[:, :-1].reshape(-1)
        return {"accuracy": float((labels == preds).mean())}

    def argmax(logits, labels):
        return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)

    trainer = Trainer(model=model, args=TrainingArguments(**args), eval_dataset=data, compute_metrics=causal,
                      preprocess_logits_for_metrics=argmax, data_collator=default_data_collator)
    clm = trainer.evaluate()
    tok, model = load("bert-mlm"), AutoModelForMaskedLM.from_pretrained("bert-mlm").eval()
    collator = DataCollatorForLanguageModeling(tok, seed=5, mlm_probability=0.3)
    masked = []
    for line in LINES[:25]:
        batch = collator([tok(line)])
        if (batch["labels"] != -100).any():
            masked.append({"input_ids": batch["input_ids"][0].tolist(), "labels": batch["labels"][0].tolist()})

    def mlm(pred):
        labels, preds = pred.label_ids.reshape(-1), pred.predictions.reshape(-1)
        mask = labels != -100
        return {"accuracy": float((labels[mask] == preds[mask]).mean())}

    def pad(batch):
        n = max(len(row["input_ids"]) for row in batch)
        fill = lambda key, value: torch.tensor([row[key] + [value] * (n - len(row[key])) for row in batch])
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (n - len(row["input_ids"])) for row in batch])
        return {"input_ids": fill("input_ids", 0), "labels": fill("labels", -100), "attention_mask": mask}

    trainer = Trainer(model=model, args=TrainingArguments(**args), eval_dataset=datasets.Dataset.from_list(masked), compute_metrics=mlm,
                      preprocess_logits_for_metrics=argmax, data_collator=pad)
    found = trainer.evaluate()
    numbers = lambda m: {"loss": m["eval_loss"], "accuracy": m["eval_accuracy"], "perplexity": math.exp(m["eval_loss"])}
    return {"texts": [row["text"] for row in rows], "block_size": 20, "batch_size": 3, "clm": numbers(clm), "masked_rows": masked, "mlm": numbers(found)}


make_models()
for name, value in {"generation": generation(), "sampling": sampling(), "pipelines": pipelines(), "blocks": blocks(), "evaluation": evaluation()}.items():
    with open(f"{name}.json", "w") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
