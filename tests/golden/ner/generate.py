"""Writes two small random models with tokenizers of their own (WordPiece and byte-level BPE), and cases.json: what the
token-classification pipeline of transformers finds with them.

    pip install torch==2.15.0 transformers==5.24.0 tokenizers
    python generate.py
"""

import json
import os
import pathlib
import warnings

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, RobertaConfig,
                          RobertaForTokenClassification, pipeline)

warnings.simplefilter("ignore")
HERE = pathlib.Path(__file__).parent
LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC", "B-creative-work", "I-creative-work"]
TEXTS = [
    "Maria Lopez flew from Lisbon to Reykjavik on Tuesday.",
    "The Hudson's Bay Company (founded 1670) isn't in Toronto, is it?",
    "Zoë Müller-Lüdenscheidt ate jalapeños; naïve café-goers stared at 東京 and Ωmega \U0001F600 signs.",
    "  Two  spaces,\ttabs and\nnew lines surround Québec City  ",
    "x",
    "",
]
LONG = (
    "When the ferry left Stornoway that morning, Ailsa MacLeod of the Northern Shipping Trust counted forty-two crates "
    "bound for Ullapool, three for Inverness and one, unlabelled, for the laboratory of Dr. Okonkwo-Fernández in "
    "Aberdeen. Nobody at Fairweather & Sons remembered ordering it; the invoice named a street in Trondheim instead."
)
WORDS = [
    ["Maria", "Lopez", "works", "for", "Fairweather", "&", "Sons", "."],
    ["Zoë", "visited", "Saint-Étienne", "", "in", "1998"],
    ["unbelievable", "Reykjavik"],
]
CORPUS = TEXTS + [LONG] + [" ".join(words) for words in WORDS]


def wordpiece(folder):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # The corpus without emoji, so that one is unknown.
    trainer = trainers.WordPieceTrainer(vocab_size=170, special_tokens=special, limit_alphabet=60)
    tokenizer.train_from_iterator([text.replace("\U0001F600", "") for text in CORPUS], trainer)
    ids = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ids)
    tokenizer.decoder = decoders.WordPiece()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]",
        mask_token="[MASK]", model_max_length=40, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=20, max_position_embeddings=40, initializer_range=0.6, num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)), label2id={name: id for id, name in enumerate(LABELS)})
    save(folder, fast, BertForTokenClassification(config))


def byte_level(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(CORPUS, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", cls_token="<s>", sep_token="</s>", bos_token="<s>",
        eos_token="</s>", pad_token="<pad>", mask_token="<mask>", model_max_length=48, add_prefix_space=True,
        model_input_names=["input_ids", "attention_mask"])
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=20, max_position_embeddings=50, type_vocab_size=1, initializer_range=0.6,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)), label2id={name: id for id, name in enumerate(LABELS)})
    save(folder, fast, RobertaForTokenClassification(config))


def save(folder, tokenizer, model):
    tokenizer.save_pretrained(HERE / folder)
    model.eval().save_pretrained(HERE / folder)


def plain(found):
    """Each as [entity, score, word, start, end, index], or [entity_group, score, word, start, end]."""
    def one(entity):
        index = [entity["index"]] if "index" in entity else []
        label = entity["entity" if index else "entity_group"]
        return [label, round(float(entity["score"]), 6), entity["word"], entity["start"], entity["end"]] + index
    return [one(entity) for entity in found]


def cases(folder):
    ner = pipeline("token-classification", model=str(HERE / folder), tokenizer=str(HERE / folder), device="cpu")
    found = []

    def add(input, options, result):
        found.append({"model": folder, "input": input, "options": options, "result": plain(result)})

    for strategy in ["none", "simple", "first", "average", "max"]:
        for text in TEXTS:
            add(text, {"aggregation_strategy": strategy}, ner(text, aggregation_strategy=strategy) if text else [])
        add(TEXTS[2], {"aggregation_strategy": strategy, "ignore_labels": []},
            ner(TEXTS[2], aggregation_strategy=strategy, ignore_labels=[]))
        add(TEXTS[1], {"aggregation_strategy": strategy, "ignore_labels": ["PER", "B-PER", "MISC"]},
            ner(TEXTS[1], aggregation_strategy=strategy, ignore_labels=["PER", "B-PER", "MISC"]))
        for words in WORDS:
            options = {"aggregation_strategy": strategy, "is_split_into_words": True}
            add(words, options, ner(words, **options)[0])
        options = {"aggregation_strategy": strategy, "is_split_into_words": True, "delimiter": " _ "}
        add(WORDS[0], options, ner(WORDS[0], **options)[0])
        # Without a stride the text is cut.
        add(LONG, {"aggregation_strategy": strategy}, ner(LONG, aggregation_strategy=strategy))
        if strategy != "none":
            for stride in [0, 5, 17] if strategy == "simple" else [5]:
                options = {"aggregation_strategy": strategy, "stride": stride}
                add(LONG, options, ner(LONG, **options))
                add(TEXTS[0], options, ner(TEXTS[0], **options))
            options = {"aggregation_strategy": strategy, "stride": 6, "is_split_into_words": True}
            add(LONG.split(), options, ner(LONG.split(), **options)[0])
    return found


def alignments(folder):
    """Labels on tokens by run_ner's rules: the first token of a word has its label, the others too where all are labelled."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(HERE / folder)
    found = []
    for number, words in enumerate(WORDS + [LONG.split()]):
        labels = [LABELS[(number + 3 * at) % len(LABELS)] for at in range(len(words))]
        inside = {label: label.replace("B-", "I-") if label.replace("B-", "I-") in LABELS else label for label in LABELS}
        encoding = tokenizer(words, is_split_into_words=True, truncation=True)
        for label_all_tokens in [False, True]:
            out, previous = [], None
            for word in encoding.word_ids():
                if word is None:
                    out.append(-100)
                elif word != previous:
                    out.append(LABELS.index(labels[word]))
                else:
                    out.append(LABELS.index(inside[labels[word]]) if label_all_tokens else -100)
                previous = word
            found.append({"model": folder, "words": words, "labels": labels, "label_all_tokens": label_all_tokens,
                          "input_ids": encoding["input_ids"], "aligned": out})
    return found


torch.manual_seed(20261124)
wordpiece("wordpiece")
byte_level("byte-level")
everything = {
    "pipeline": cases("wordpiece") + cases("byte-level"), "alignment": alignments("wordpiece") + alignments("byte-level")}
(HERE / "cases.json").write_text(json.dumps(everything, ensure_ascii=False, separators=(",", ":")))
