"""Makes schedules.json and adamw.json.

    python generate_train.py PATH/TO/transformers/optimization.py

Schedules are computed by transformers' own functions: its optimization.py (5.23.0) is run with stand-ins for torch, so
that nothing but the standard library and numpy is needed. ReduceLROnPlateau follows the documentation of
torch.optim.lr_scheduler. AdamW is written here after torch.optim.AdamW's documentation, in numpy: once in f32 in
torch's order of operations, once in f64.
"""

import json
import math
import sys
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
STEPS = [0, 1, 2, 5, 9, 10, 11, 25, 49, 50, 51, 75, 98, 99, 100, 101, 120]


class Optimizer:
    def __init__(self, lr):
        self.defaults = {"lr": lr}


class LambdaLR:
    def __init__(self, optimizer, lr_lambda, last_epoch=-1):
        self.base, self.factor = optimizer.defaults["lr"], lr_lambda

    def lr(self, step):
        return self.base * self.factor(step)


def load(path):
    """optimization.py with stand-ins for what it imports."""

    def module(name, **names):
        made = types.ModuleType(name)
        made.__dict__.update(names)
        made.__getattr__ = lambda attribute: type(attribute, (), {})
        sys.modules[name] = made
        return made

    logger = types.SimpleNamespace(get_logger=lambda name: None)
    module("torch", no_grad=lambda: (lambda function: function), Tensor=object)
    module("torch.optim", Optimizer=object)
    module("torch.optim.lr_scheduler", LambdaLR=LambdaLR, ReduceLROnPlateau=object)
    kinds = types.SimpleNamespace(**{name: name for name in [
        "LINEAR", "COSINE", "COSINE_WITH_RESTARTS", "POLYNOMIAL", "CONSTANT", "CONSTANT_WITH_WARMUP", "INVERSE_SQRT",
        "REDUCE_ON_PLATEAU", "COSINE_WITH_MIN_LR", "COSINE_WARMUP_WITH_MIN_LR", "WARMUP_STABLE_DECAY", "GREEDY"]})
    package = module("reference", __path__=[str(path.parent)])
    package.__package__ = "reference"
    module("reference.trainer_pt_utils")
    module("reference.trainer_utils", SchedulerType=kinds)
    module("reference.utils", logging=logger)
    space = {"__name__": "reference.optimization", "__package__": "reference"}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space


FUNCTIONS = {
    "linear": "get_linear_schedule_with_warmup",
    "cosine": "get_cosine_schedule_with_warmup",
    "cosine_with_restarts": "get_cosine_with_hard_restarts_schedule_with_warmup",
    "polynomial": "get_polynomial_decay_schedule_with_warmup",
    "constant": "get_constant_schedule",
    "constant_with_warmup": "get_constant_schedule_with_warmup",
    "inverse_sqrt": "get_inverse_sqrt_schedule",
    "cosine_with_min_lr": "get_cosine_with_min_lr_schedule_with_warmup",
    "cosine_warmup_with_min_lr": "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
    "warmup_stable_decay": "get_wsd_schedule",
}

CASES = [
    ("linear", {}), ("cosine", {}), ("cosine", {"num_cycles": 1.5}),
    ("cosine_with_restarts", {}), ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}), ("polynomial", {"lr_end": 1e-6, "power": 2.0}),
    ("constant", {}), ("constant_with_warmup", {}),
    ("inverse_sqrt", {}), ("inverse_sqrt", {"timescale": 40}),
    ("cosine_with_min_lr", {"min_lr": 5e-6}), ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 1.0}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-6, "warmup_lr_rate": 0.25}),
    ("warmup_stable_decay", {"num_decay_steps": 30}),
    ("warmup_stable_decay", {"num_decay_steps": 20, "num_stable_steps": 40, "warmup_type": "cosine",
                             "decay_type": "1-sqrt", "min_lr_ratio": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 20, "warmup_type": "1-sqrt", "decay_type": "linear"}),
]


def schedules(path):
    space = load(path)
    cases = []
    for kind, kwargs in CASES:
        for warmup in [10, 0]:
            given = {"num_warmup_steps": warmup, "num_training_steps": 100}
            if kind == "constant":
                given = {}
            if kind in ("constant_with_warmup", "inverse_sqrt"):
                given.pop("num_training_steps")
            made = space[FUNCTIONS[kind]](Optimizer(5e-5), **given, **kwargs)
            cases.append({"kind": kind, "kwargs": kwargs, "base_lr": 5e-5, "warmup": warmup, "total": 100,
                          "steps": STEPS, "lr": [made.lr(step) for step in STEPS]})
    return cases


def plateau(metrics, lr, mode="min", factor=0.1, patience=10, threshold=1e-4, threshold_mode="rel", cooldown=0,
            min_lr=0.0, eps=1e-8):
    sign = 1 if mode == "min" else -1
    best, bad, cooling, rates = sign * math.inf, 0, 0, []
    for metric in metrics:
        target = best * (1 - sign * threshold) if threshold_mode == "rel" else best - sign * threshold
        if (metric < target) if mode == "min" else (metric > target):
            best, bad = metric, 0
        else:
            bad += 1
        if cooling > 0:
            cooling, bad = cooling - 1, 0
        if bad > patience:
            new = max(lr * factor, min_lr)
            lr = new if lr - new > eps else lr
            cooling, bad = cooldown, 0
        rates.append(lr)
    return rates


def plateaus():
    falling = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    rising = [0.5, 0.6, 0.6004, 0.6008, 0.61, 0.62, 0.62, 0.62, 0.62, 0.7, 0.7, 0.7, 0.7, 0.7]
    cases = [
        (falling * 2, {}),
        (falling, {"patience": 2, "factor": 0.5}),
        (falling, {"patience": 1, "cooldown": 2, "min_lr": 2e-5, "factor": 0.5}),
        (rising, {"patience": 1, "mode": "max", "threshold": 0.001}),
        (rising, {"patience": 1, "mode": "max", "threshold": 0.001, "threshold_mode": "abs", "eps": 1e-5}),
    ]
    return [{"kwargs": kwargs, "base_lr": 1e-4, "metrics": metrics, "lr": plateau(metrics, 1e-4, **kwargs)}
            for metrics, kwargs in cases]


def adamw_steps(start, gradients, decay, rates, scales, kind):
    b1, b2, eps = 0.9, 0.999, 1e-8
    p = start.astype(kind)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, (g, lr, scale) in enumerate(zip(gradients, rates, scales), 1):
        g = g.astype(kind) * kind(scale)
        p = p * kind(1 - lr * decay)
        m = m + kind(1 - b1) * (g - m)
        v = v * kind(b2) + (kind(1 - b2) * g) * g
        denominator = np.sqrt(v) / kind(math.sqrt(1 - b2**t)) + kind(eps)
        p = p - (kind(lr / (1 - b1**t)) * m) / denominator
    return p, m, v


def adamw():
    rng = np.random.default_rng(7)
    rates, scales = [0.0, 1e-3, 5e-4, 2e-3, 1e-3], [1.0, 0.5, 1.0, 0.25, 1.0]
    cases = []
    for name, shape, decay in [("a.weight", [3, 7], 0.01), ("a.bias", [5], 0.0), ("b.weight", [2, 3, 4], 0.1),
                               ("scale", [1], 0.0)]:
        start = rng.normal(size=shape).astype(np.float32)
        gradients = [(rng.normal(size=shape) * 10.0 ** -k).astype(np.float32) for k in range(5)]
        case = {"name": name, "shape": shape, "weight_decay": decay, "start": start.ravel().tolist(),
                "gradients": [g.ravel().tolist() for g in gradients]}
        for key, kind in [("f32", np.float32), ("f64", np.float64)]:
            p, m, v = adamw_steps(start, gradients, decay, rates, scales, kind)
            case[key] = {"weight": p.ravel().tolist(), "exp_avg": m.ravel().tolist(), "exp_avg_sq": v.ravel().tolist()}
        cases.append(case)
    return {"lr": rates, "grad_scale": scales, "parameters": cases}


path = Path(sys.argv[1])
(HERE / "schedules.json").write_text(json.dumps({"schedules": schedules(path), "plateaus": plateaus()}) + "\n")
(HERE / "adamw.json").write_text(json.dumps(adamw()) + "\n")
