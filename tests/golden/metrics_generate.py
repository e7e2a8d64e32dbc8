"""Writes metrics.json: 200 random cases and the edge cases, scored by scikit-learn and scipy.

    pip install scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
    python metrics_generate.py > metrics.json
"""

import json
import math
import sys
import warnings

import numpy as np
from scipy import stats
from sklearn import metrics as sk

warnings.simplefilter("ignore")
rng = np.random.default_rng(20261123)


def plain(value):
    """JSON has no NaN and no infinity: they become the strings "nan", "inf" and "-inf"."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (np.integer, np.bool_, bool)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(float(value))
    return value


def prf(references, predictions, **options):
    precision, recall, f1, support = sk.precision_recall_fscore_support(references, predictions, **options)
    return [precision, recall, f1] + ([support] if options["average"] is None else [])


def classification(predictions, references, labels, zero_division):
    case = {
        "kind": "classification", "predictions": predictions, "references": references,
        "labels": labels, "zero_division": zero_division,
        "accuracy": sk.accuracy_score(references, predictions),
        "balanced_accuracy": sk.balanced_accuracy_score(references, predictions),
        "matthews_correlation": sk.matthews_corrcoef(references, predictions),
    }
    if labels is None or set(labels) & set(references):
        case["confusion_matrix"] = sk.confusion_matrix(references, predictions, labels=labels)
    for average in ["micro", "macro", "weighted", None]:
        case[average or "none"] = prf(references, predictions, labels=labels, average=average, zero_division=zero_division)
    present = set(predictions) | set(references)
    if len(present) < 2 or (len(present) == 2 and 1 in present):
        case["binary"] = prf(references, predictions, average="binary", pos_label=1, zero_division=zero_division)
    return case


def multi_label(predictions, references, zero_division):
    p, r = np.array(predictions), np.array(references)
    case = {
        "kind": "multi_label", "predictions": p, "references": r, "zero_division": zero_division,
        "subset_accuracy": sk.accuracy_score(r, p), "hamming_loss": sk.hamming_loss(r, p),
    }
    for average in ["micro", "macro", "weighted", None]:
        case[average or "none"] = prf(r, p, average=average, zero_division=zero_division)
    return case


def regression(predictions, references):
    single = len(predictions) < 2
    return {
        "kind": "regression", "predictions": predictions, "references": references,
        "mse": sk.mean_squared_error(references, predictions),
        "rmse": sk.root_mean_squared_error(references, predictions),
        "mae": sk.mean_absolute_error(references, predictions),
        "r2": sk.r2_score(references, predictions),
        # scipy refuses a single pair; the correlation is undefined.
        "pearson": math.nan if single else stats.pearsonr(predictions, references).statistic,
        "spearman": stats.spearmanr(predictions, references).statistic,
    }


def roc_auc(scores, references):
    return {"kind": "roc_auc", "predictions": scores, "references": references,
            "roc_auc": sk.roc_auc_score(references, scores)}


cases = [
    classification([0, 0, 0], [0, 0, 0], None, 0.0),
    classification([0, 0, 0], [0, 0, 0], None, 1.0),
    classification([0, 0, 0], [0, 0, 0], None, math.nan),
    classification([0, 0, 0, 0], [0, 1, 0, 1], None, 0.0),
    classification([0, 0, 0, 0], [0, 1, 0, 1], None, math.nan),
    classification([1, 1, 1, 1], [0, 0, 0, 0], None, 1.0),
    classification([0, 1, 2], [1, 2, 0], None, 0.0),
    classification([2, 2, 2, 0], [0, 1, 0, 0], None, math.nan),
    classification([0, 1, 1], [0, 0, 1], [5, 6], 0.0),
    classification([0, 1, 1], [0, 0, 1], [5], math.nan),
    classification([0, 1, 1], [0, 0, 1], [1, 0], 0.0),
    classification([7], [7], None, 0.0),
    multi_label([[0, 0], [0, 0]], [[0, 0], [0, 0]], 0.0),
    multi_label([[0, 0], [0, 0]], [[0, 0], [0, 0]], math.nan),
    multi_label([[1, 1, 0]], [[0, 1, 1]], 1.0),
    regression([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
    regression([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]),
    regression([2.0, 2.0], [2.0, 2.0]),
    regression([1.0], [1.0]),
    regression([1.0, 2.0], [4.0, 3.0]),
    regression([1e200, -1e200, 3e199], [1e-200, -1e-200, 0.0]),
    roc_auc([0.1, 0.9, 0.5], [1, 1, 1]),
    roc_auc([0.5, 0.5, 0.5, 0.5], [0, 1, 0, 1]),
]
for number in range(200):
    n = int(rng.integers(1, 25))
    zero_division = [0.0, 1.0, math.nan][number % 3]
    if number % 10 < 5:
        k = int(rng.integers(1, 6))
        references = rng.integers(0, k, n)
        predictions = np.where(rng.random(n) < 0.6, references, rng.integers(0, k, n))
        labels = [int(x) for x in rng.permutation(k + 1)[: max(1, k - 1)]] if rng.random() < 0.3 else None
        cases.append(classification([int(x) for x in predictions], [int(x) for x in references], labels, zero_division))
    elif number % 10 < 7:
        k = int(rng.integers(2, 5))
        cases.append(multi_label(rng.integers(0, 2, (n, k)), rng.integers(0, 2, (n, k)), zero_division))
    elif number % 10 < 9:
        references = np.round(rng.normal(size=n) * 3, int(rng.integers(0, 5)))
        predictions = np.round(references * rng.normal() + rng.normal(size=n), int(rng.integers(0, 5)))
        cases.append(regression(predictions, references))
    else:
        cases.append(roc_auc(np.round(rng.random(n), int(rng.integers(1, 4))), rng.integers(0, 2, n)))

json.dump([plain(case) for case in cases], sys.stdout, separators=(",", ":"))
