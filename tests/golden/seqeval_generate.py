"""Writes seqeval.json: seqeval's documented examples and 200 random cases, scored by seqeval.

    pip install seqeval==1.2.2 numpy==2.4.6 scikit-learn==1.9.1
    python seqeval_generate.py > seqeval.json
"""

import json
import math
import random
import sys
import warnings

from seqeval.metrics import accuracy_score, classification_report
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
from seqeval.scheme import BILOU, IOB1, IOB2, IOBES, IOE1, IOE2, auto_detect

warnings.simplefilter("ignore")
rng = random.Random(20261124)
SCHEMES = {"IOB1": IOB1, "IOB2": IOB2, "IOE1": IOE1, "IOE2": IOE2, "IOBES": IOBES, "BILOU": BILOU}
LETTERS = {"IOB1": "IB", "IOB2": "IB", "IOE1": "IE", "IOE2": "IE", "IOBES": "IBES", "BILOU": "IBLU"}


def plain(value):
    value = float(value)
    return value if math.isfinite(value) else str(value)


def spans(n, kinds):
    """A sentence's entities: (type, start, end)."""
    found, at = [], 0
    while at < n:
        length = rng.choice([1, 1, 2, 2, 3, 4])
        if rng.random() < 0.5 and at + length <= n:
            found.append((rng.choice(kinds), at, at + length))
            at += length
        else:
            at += 1
    return found


def tags(n, entities, scheme):
    """The entities as tags of a scheme."""
    out = [("O", "")] * n
    for number, (kind, start, end) in enumerate(entities):
        for at in range(start, end):
            out[at] = ("I", kind)
        follows = number > 0 and entities[number - 1][2] == start and entities[number - 1][0] == kind
        followed = number + 1 < len(entities) and entities[number + 1][1] == end and entities[number + 1][0] == kind
        first, last = (start, ("B", kind)), (end - 1, ("E", kind))
        if scheme == "IOB2" or (scheme == "IOB1" and follows):
            out[first[0]] = first[1]
        if scheme == "IOE2" or (scheme == "IOE1" and followed):
            out[last[0]] = last[1]
        if scheme in ("IOBES", "BILOU"):
            end_letter, single = ("E", "S") if scheme == "IOBES" else ("L", "U")
            out[start] = ("B", kind)
            out[end - 1] = (end_letter, kind) if end - start > 1 else (single, kind)
    return out


def broken(sentence, kinds, letters, share):
    """Some tags replaced by any others."""
    out = []
    for tag in sentence:
        if rng.random() < share:
            tag = rng.choice([("O", ""), (rng.choice(letters), rng.choice(kinds))])
        out.append(tag)
    return out


def written(sentence, suffix):
    def one(letter, kind):
        if letter == "O" or kind == "":
            return letter
        return f"{kind}-{letter}" if suffix else f"{letter}-{kind}"
    return [one(letter, kind) for letter, kind in sentence]


def case(predictions, references, mode=None, scheme=None, suffix=False, zero_division=0, digits=2):
    out = {
        "predictions": [" ".join(row) for row in predictions], "references": [" ".join(row) for row in references],
        "mode": mode, "scheme": scheme, "suffix": suffix, "zero_division": zero_division, "digits": digits,
    }
    options = {"zero_division": zero_division, "suffix": suffix}
    function = precision_recall_fscore_support
    if mode == "strict":
        if scheme is None:
            options["scheme"] = auto_detect(references, suffix)
            out["detected"] = options["scheme"].__name__
        else:
            options["scheme"] = SCHEMES[scheme]
        function = strict_scores
    for average in [None, "micro", "macro", "weighted"]:
        precision, recall, f1, support = function(references, predictions, average=average, **options)
        if average is None:
            out["types"] = [[plain(p), plain(r), plain(f), int(s)] for p, r, f, s in zip(precision, recall, f1, support)]
        else:
            out[average] = [plain(precision), plain(recall), plain(f1), int(support)]
    out["accuracy"] = accuracy_score(references, predictions)
    if out["types"]:
        table = classification_report(
            references, predictions, mode=mode, scheme=SCHEMES.get(scheme), digits=digits, **{k: options[k] for k in ("zero_division", "suffix")})
        out["report"] = table
    return out


def random_case(number):
    scheme = rng.choice(list(SCHEMES))
    suffix = rng.random() < 0.25
    kinds = [["PER"], ["PER", "LOC"], ["PER", "LOC", "ORG", "MISC"], ["creative-work", "person", ""],
             [f"kind{at}" for at in range(12)], [f"k{at:03}" for at in range(150)]][5 if number in (7, 15) else [0, 1, 2, 2, 3, 4, 4, 3][number % 8]]
    references, predictions = [], []
    for _ in range(rng.randint(1, 6) if len(kinds) < 100 else 60):
        n = rng.randint(0 if references else 1, 14)
        entities = spans(n, kinds)
        right = tags(n, entities, scheme)
        if number % 5 == 0:
            right = broken(right, kinds, LETTERS[scheme], 0.2)
        if number % 7 == 0:
            wrong = broken(tags(n, spans(n, kinds), scheme), kinds, LETTERS[scheme], 0.1)
        else:
            wrong = broken(right, kinds, LETTERS[scheme], rng.choice([0.0, 0.2, 0.5]))
        references.append(written(right, suffix))
        predictions.append(written(wrong, suffix))
    settings = {"suffix": suffix, "zero_division": rng.choice([0, 0, 1]), "digits": rng.choice([2, 2, 4, 1])}
    kind = number % 4
    if kind == 1 or kind == 3:
        return case(predictions, references, mode="strict", scheme=scheme, **settings)
    if kind == 2 and number % 12 == 2:
        try:
            return case(predictions, references, mode="strict", **settings)
        except ValueError:
            pass
    if number % 9 == 0 and not suffix:
        # conlleval's reading takes any letter.
        odd = [[rng.choice(["X", "X-PER", ".", "L-LOC", "U", tag]) if rng.random() < 0.3 else tag for tag in row] for row in predictions]
        return case(odd, references, **settings)
    return case(predictions, references, **settings)


DOCUMENTED = [
    ([["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
     [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]),
    ([["O", "O", "B-MISC", "I-MISC", "B-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
     [["O", "O", "B-MISC", "I-MISC", "B-MISC", "O", "O"], ["B-PER", "I-PER", "O"]]),
    ([["O", "O", "B-MISC", "I-MISC", "I-MISC", "O", "O"], ["B-PER", "I-PER", "O", "B-MISC"]],
     [["O", "O", "O", "B-MISC", "I-MISC", "O", "B-ORG"], ["B-PER", "I-PER", "O", "B-PER"]]),
    ([["B-NP", "I-NP", "O"]], [["I-NP", "I-NP", "O"]]),
    ([["O", "O"]], [["O", "O"]]),
]

cases = []
for predictions, references in DOCUMENTED:
    for settings in [{}, {"mode": "strict", "scheme": "IOB2"}, {"mode": "strict", "scheme": "IOB1"}, {"zero_division": 1}]:
        if references == [["I-NP", "I-NP", "O"]] and "mode" in settings and settings["scheme"] == "IOB2":
            settings = {**settings, "digits": 3}
        cases.append(case(predictions, references, **settings))
cases += [random_case(number) for number in range(200)]
json.dump({"cases": cases}, sys.stdout, separators=(",", ":"), indent=None)
