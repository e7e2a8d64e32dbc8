"""Writes squad.json: 200 random sets of answers, scored by SQuAD's official script 1.1 and by transformers' SQuAD 2.0 metrics.

    pip install transformers==4.57.1 torch
    python squad_generate.py compute_score.py > squad.json

`compute_score.py` is the script of version 1.1, which no package ships and which is not in this repository. What is in squad.json
came from a retyped copy of it, with logging and file output removed. torchmetrics' `squad`, which is independent of that copy,
agrees on the exact match of all 100 cases of version 1.1, and on the F1 of all 52 cases in which prediction and gold are not both
empty after normalisation (where it applies the rule of version 2.0).

Sums are those of Python 3.11 (from 3.12 on, `sum` compensates for rounding).
"""

import importlib.util
import json
import random
import sys

from transformers.data.metrics.squad_metrics import normalize_answer, squad_evaluate
from transformers.data.processors.squad import SquadExample

spec = importlib.util.spec_from_file_location("official", sys.argv[1])
official = importlib.util.module_from_spec(spec)
spec.loader.exec_module(official)
draw = random.Random(20261124)

WORDS = [
    "harbour", "the", "The", "a", "an", "AN", "old", "ferry", "1976", "3.5", "co-op", "naïve", "na\u0308ive", "straße", "STRASSE",
    "İzmir", "ΣΑΣ", "σας", "東京", "駅", "🙂", "e\u0301t\u00e9", "don't", "dont", "U.S.", "us", "theory", "another", "_a_", "the_end",
    "½", "a½", "—", "the—", "“a”", "(the)", "a.", "an-", "x\u00a0y", "tab\tbed", "line\nend", "\u2009thin", "an\u0301", "a1", "1a", "ſ",
]


def text(most):
    n = draw.randint(0, most)
    glue = draw.choice([" ", " ", " ", "  ", ""])
    return glue.join(draw.choice(WORDS) for _ in range(n))


def near(answer):
    """A prediction that shares something with an answer."""
    words = answer.split(" ")
    kind = draw.random()
    if kind < 0.3:
        return answer
    if kind < 0.5:
        return answer.upper() + draw.choice(["", ".", "!"])
    if kind < 0.7:
        return " ".join(words[: draw.randint(0, len(words))])
    if kind < 0.85:
        return "the " + " ".join(draw.sample(words, len(words))) + " " + draw.choice(WORDS)
    return text(4)


cases = []
for number in range(200):
    with_negative = number % 2 == 1
    questions = []
    for index in range(draw.randint(1, 6)):
        golds = [text(5) for _ in range(draw.randint(1, 3))]
        if with_negative and draw.random() < 0.4:
            golds = []
        prediction = near(draw.choice(golds)) if golds and draw.random() < 0.8 else draw.choice([text(4), ""])
        probability = draw.choice([0.0, 0.25, 0.5, 0.75, 1.0, round(draw.random(), 3)])
        questions.append({"id": f"q{index}", "golds": golds, "prediction": prediction, "probability": probability})
    case = {"questions": questions}
    predictions = {question["id"]: question["prediction"] for question in questions}
    if not with_negative:
        qas = [{"id": q["id"], "answers": [{"text": gold} for gold in q["golds"]]} for q in questions]
        case["squad"] = official.compute_score([{"paragraphs": [{"qas": qas}]}], predictions)
    examples = [
        SquadExample(q["id"], "?", "", None, None, "", answers=[{"text": gold} for gold in q["golds"]]) for q in questions
    ]
    order = draw.sample(questions, len(questions))
    case["order"] = [question["id"] for question in order]
    predictions = {question["id"]: question["prediction"] for question in order}
    probabilities = {question["id"]: question["probability"] for question in order}
    case["threshold"] = draw.choice([1.0, 1.0, 0.5, 0.2])
    case["squad_v2"] = squad_evaluate(examples, predictions, probabilities, case["threshold"])
    cases.append(case)
texts = sorted({text(6) for _ in range(300)})
golden = {"cases": cases, "normalized": [[text, normalize_answer(text)] for text in texts]}
json.dump(golden, sys.stdout, ensure_ascii=False, separators=(",", ":"))
