"""Writes questions.json: windows and labels as run_qa makes them, answers as run_qa reads them from scores, and answers of
Hugging Face's question-answering pipeline with the model of parity/bert-qa.

    pip install transformers==4.57.1 torch numpy          # the pipeline is not in transformers 5.3 and later
    python questions_generate.py utils_qa.py > questions.json

`utils_qa.py` is the one of transformers' examples/pytorch/question-answering, which no package ships and which is not in this
repository. What is in questions.json came from a retyped copy of it, with logging and file output removed. `labels` below does what
run_qa does but for two slips, which it corrects: an answer that begins in the last token of the context, and ends that cross where
tokens share a character.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
from transformers import BertForQuestionAnswering, BertTokenizerFast, GPT2TokenizerFast, QuestionAnsweringPipeline, RobertaTokenizerFast

here = Path(__file__).parent
spec = importlib.util.spec_from_file_location("utils_qa", sys.argv[1])
utils_qa = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils_qa)
draw = random.Random(20261124)


def load(kind, folder):
    return kind(tokenizer_file=str(folder / "tokenizer.json"))


bert = load(BertTokenizerFast, here.parents[1] / "stdlib/minilm-tiny")
tokenizers = {
    "minilm-tiny": bert,
    "roberta": load(RobertaTokenizerFast, here / "tokenizer/roberta"),
    "gpt2": load(GPT2TokenizerFast, here / "tokenizer/gpt2"),
}
WORDS = (
    "the film ferry harbour leaves at nine in morning and carries passengers, who like it. The actor "
    "supercalifragilistic 1976 3,000.50 don't naïve nai\u0308ve e\u0301te\u0301 東京 駅です 😀 👍🏽 👨‍👩‍👧 straße x\u00a0y “quoted” (bracket) co-operate "
    "plot thin good bad charm wit scene story voice music"
).split(" ")
QUESTIONS = ["What carries the film?", "  When does the ferry leave?", "Who?", "Which 東京 駅 😀 is it, and why so naïve?"]


def text(n):
    return draw.choice(["", "", " ", "\n"]) + draw.choice([" ", " ", "  "]).join(draw.choice(WORDS) for _ in range(n))


def labels(encoded, index, cls, answers):
    """run_qa's prepare_train_features, with two of its slips put right: an answer that starts in the last token of the context
    has its start there (the loop runs into the padding), and start and end do not cross where tokens share a character."""
    offsets, sequence = encoded["offset_mapping"][index], encoded.sequence_ids(index)
    if not answers["answer_start"]:
        return cls, cls
    start_char = answers["answer_start"][0]
    end_char = start_char + len(answers["text"][0])
    first = 0
    while sequence[first] != 1:
        first += 1
    last = len(sequence) - 1
    while sequence[last] != 1:
        last -= 1
    if not (offsets[first][0] <= start_char and offsets[last][1] >= end_char):
        return cls, cls
    start, end = first, last
    while start <= last and offsets[start][0] <= start_char:
        start += 1
    while end >= first and offsets[end][1] >= end_char:
        end -= 1
    start, end = start - 1, end + 1
    return min(start, end), max(start, end)


features = []
for number in range(90):
    name = ["minilm-tiny", "roberta", "gpt2"][number % 3]
    tokenizer = tokenizers[name]
    context, question = text(draw.randint(3, 70)), draw.choice(QUESTIONS)
    answers = {"text": [], "answer_start": []}
    if draw.random() < 0.85:
        start = draw.randrange(len(context))
        if draw.random() < 0.7:  # at a word
            while start > 0 and not context[start - 1].isspace():
                start -= 1
        answer = context[start : start + draw.randint(1, 25)]
        answers = {"text": [answer, "x"], "answer_start": [start, 0]}
    max_length, stride = draw.choice([(48, 8), (64, 20), (40, 0), (384, 128)])
    encoded = tokenizer(
        question.lstrip(), context, truncation="only_second", max_length=max_length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )
    windows = []
    for index, ids in enumerate(encoded["input_ids"]):
        cls = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
        checksum = sum(place * token for place, token in enumerate(ids, 1))
        windows.append([len(ids), checksum, *labels(encoded, index, cls, answers)])
    features.append({
        "tokenizer": name, "question": question, "context": context, "answers": answers, "max_length": max_length,
        "stride": stride, "windows": windows,
    })

postprocessed = []
for number in range(60):
    context, question = text(draw.randint(2, 60)), draw.choice(QUESTIONS)
    encoded = bert(
        question.lstrip(), context, truncation="only_second", max_length=48, stride=12, return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows, logits = [], ([], [])
    rng = np.random.default_rng(number)
    for index in range(len(encoded["input_ids"])):
        offsets = [o if s == 1 else None for o, s in zip(encoded["offset_mapping"][index], encoded.sequence_ids(index))]
        windows.append({"example_id": "q", "offset_mapping": offsets})
        for side in logits:
            scores = rng.normal(size=len(offsets)) * 3
            if draw.random() < 0.5:
                scores[0] += 4.0
            side.append(np.round(scores, 3).astype(np.float32))
    options = {
        "version_2_with_negative": draw.random() < 0.6, "n_best_size": draw.choice([1, 3, 20]),
        "max_answer_length": draw.choice([1, 4, 30]), "null_score_diff_threshold": draw.choice([0.0, -2.0, 3.5]),
    }
    examples = {"id": ["q"], "context": [context]}
    answer = utils_qa.postprocess_qa_predictions(examples, windows, logits, **options)["q"]
    postprocessed.append({
        "question": question, "context": context, "options": options,
        "start_logits": [[round(float(x), 3) for x in scores] for scores in logits[0]],
        "end_logits": [[round(float(x), 3) for x in scores] for scores in logits[1]], "answer": answer,
    })

model = BertForQuestionAnswering.from_pretrained(here / "parity/bert-qa").eval()
bert.model_max_length = 64
answering = QuestionAnsweringPipeline(model=model, tokenizer=bert)
pipelined = []
for number in range(40):
    context, question = text(draw.randint(8, 90)), draw.choice(QUESTIONS).lstrip()
    options = {}
    for key, values in {
        "top_k": [1, 3, 5], "max_answer_len": [1, 5], "handle_impossible_answer": [True], "align_to_words": [False],
        "doc_stride": [8, 16], "max_seq_len": [40, 64],
    }.items():
        if draw.random() < 0.4:
            options[key] = draw.choice(values)
    result = answering(question=question, context=context, **options)
    pipelined.append({"question": question, "context": context, "options": options, "result": result})
json.dump({"features": features, "postprocessed": postprocessed, "pipeline": pipelined}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
