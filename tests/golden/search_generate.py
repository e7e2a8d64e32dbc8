"""Writes search.json: what Optuna and Lightning give where tests/search.rs and tests/lr_find.rs compare.

    python tests/golden/search_generate.py     (optuna 5.0.0, pytorch-lightning 2.6.6)
"""

import json
import math
import os
import random
import types

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import _split_trials, default_gamma, default_weights
from optuna.trial import TrialState, create_trial
from pytorch_lightning.tuner.lr_finder import _ExponentialLR, _LinearLR, _LRCallback, _LRFinder

optuna.logging.set_verbosity(optuna.logging.ERROR)
rng = random.Random(7)

DISTRIBUTIONS = {
    "uniform": FloatDistribution(-2.0, 3.0),
    "log": FloatDistribution(1e-6, 1e-4, log=True),
    "steps": FloatDistribution(0.0, 0.3, step=0.05),
    "int": IntDistribution(1, 5),
    "int_steps": IntDistribution(0, 100, step=10),
    "int_log": IntDistribution(4, 512, log=True),
    "choice": CategoricalDistribution([4, 8, 16, 32, 64]),
}


def internal(of):
    """A random value in internal form."""
    if isinstance(of, CategoricalDistribution):
        return float(rng.randrange(len(of.choices)))
    low, high = of.low, of.high
    if of.log:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
        return float(round(value)) if isinstance(of, IntDistribution) else value
    if of.step is not None:
        return low + of.step * rng.randrange(round((high - low) / of.step) + 1)
    return rng.uniform(low, high)


def estimator(observations, space):
    parameters = TPESampler()._parzen_estimator_parameters
    columns = {name: np.array([row[name] for row in observations], dtype=float) for name in space}
    return _ParzenEstimator(columns, space, parameters)


def parzen():
    cases = []
    names = [[name] for name in DISTRIBUTIONS] * 3 + [["uniform", "log", "choice"], ["int", "steps", "int_log"]] * 3
    for index, names in enumerate(names):
        space = {name: DISTRIBUTIONS[name] for name in names}
        n = [0, 1, 2, 7, 24, 26, 40][(index * 5 + index // 7) % 7]
        # Distinct numbers where the order among equal ones would matter: more than 25 have weights of their own.
        rows, seen = [], set()
        while len(rows) < n:
            row = {name: internal(of) for name, of in space.items()}
            if n > 25 and len(names) == 1 and names[0] in ("uniform", "log") and row[names[0]] in seen:
                continue
            seen.add(row[names[0]])
            rows.append(row)
        if n > 25 and any(isinstance(of, IntDistribution) or of is DISTRIBUTIONS["steps"] for of in space.values()):
            rows = rows[:24]
        if len(names) > 1:
            # numpy sorts up to 16 numbers by insertion, which leaves equal ones in their order.
            rows = rows[:12]
        found = estimator(rows, space)
        points = [{name: internal(of) for name, of in space.items()} for _ in range(6)]
        log_pdf = found.log_pdf({name: np.array([point[name] for point in points], dtype=float) for name in space})
        mixture = found._mixture_distribution
        kernels = []
        for of in mixture.distributions:
            if hasattr(of, "weights"):
                kernels.append({"weights": of.weights.tolist()})
            else:
                kernels.append({"mus": of.mu.tolist(), "sigmas": of.sigma.tolist()})
        cases.append({
            "space": [json.loads(distribution_to_json(of)) for of in space.values()],
            "observations": [[row[name] for name in space] for row in rows],
            "weights": mixture.weights.tolist(),
            "kernels": kernels,
            "points": [[point[name] for name in space] for point in points],
            "log_pdf": log_pdf.tolist(),
        })
    return cases


def as_trial(number, params, value, state, intermediate):
    trial = create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params={name: of.to_external_repr(params[name]) for name, of in DISTRIBUTIONS.items() if name in params},
        distributions={name: DISTRIBUTIONS[name] for name in params},
        intermediate_values=intermediate,
    )
    trial.number = number
    return trial


def history(n, n_steps, pruned, names):
    trials = []
    for _ in range(n):
        params = {name: internal(DISTRIBUTIONS[name]) for name in names}
        values = [round(rng.uniform(0, 1), 3) for _ in range(rng.randint(1, n_steps))]
        if rng.random() < 0.05:
            values[-1] = float("nan")
        state = TrialState.PRUNED if rng.random() < pruned else TrialState.COMPLETE
        value = 1.0 if math.isnan(values[-1]) else values[-1]
        trials.append((params, value, state, {10 * (step + 1): value for step, value in enumerate(values)}))
    return trials


def shown(trials):
    number = lambda value: "nan" if math.isnan(value) else value
    return [
        {
            "params": [params[name] for name in params],
            "value": value,
            "state": state.name,
            "intermediate_values": {str(step): number(value) for step, value in values.items()},
        }
        for params, value, state, values in trials
    ]


def study_of(trials, direction, **kwargs):
    study = optuna.create_study(direction=direction, **kwargs)
    for number, trial in enumerate(trials):
        study.add_trial(as_trial(number, *trial))
    return study


def splits():
    cases = []
    for index in range(30):
        direction = ["minimize", "maximize"][index % 2]
        trials = history(1 + index * 2, 3, 0.4, ["uniform"])
        study = study_of(trials, direction)
        below, above = _split_trials(study, study.trials, default_gamma(len(trials)))
        cases.append({
            "direction": direction,
            "trials": shown(trials),
            "below": [trial.number for trial in below],
        })
    return cases


def suggestions():
    """The distribution of what is suggested after a history: 2,000 suggestions with as many seeds."""
    cases = []
    for name, direction, multivariate in [
        ("uniform", "minimize", False), ("log", "maximize", False), ("int", "minimize", False),
        ("choice", "maximize", False), ("int_log", "minimize", False), ("log", "minimize", True),
    ]:
        names = [name, "uniform"] if multivariate else [name]
        trials = history(24, 2, 0.2, names)
        study = study_of(trials, direction)
        found = []
        for seed in range(2000):
            study.sampler = TPESampler(seed=seed, multivariate=multivariate)
            trial = study.ask({name: DISTRIBUTIONS[name] for name in names})
            value = DISTRIBUTIONS[name].to_internal_repr(trial.params[name])
            found.append(value)
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        found.sort()
        cases.append({
            "space": [json.loads(distribution_to_json(DISTRIBUTIONS[name])) for name in names],
            "names": names,
            "direction": direction,
            "multivariate": multivariate,
            "trials": shown(trials),
            # 200 of the 2,000, evenly spaced, say as much as a test can see.
            "quantiles": [float(f"{found[10 * index + 5]:.6g}") for index in range(200)],
        })
    return cases


def pruning():
    cases = []
    for index in range(100):
        direction = ["minimize", "maximize"][index % 2]
        settings = [{}, {"n_warmup_steps": 20}, {"n_startup_trials": 2, "n_min_trials": 3}, {"interval_steps": 20}][index % 4]
        trials = history(rng.randint(0, 12), 5, 0.2, ["uniform"])
        pruner = optuna.pruners.MedianPruner(**settings)
        if index % 5 == 4:
            pruner = optuna.pruners.PercentilePruner(25.0, **settings)
        study = study_of(trials, direction, pruner=pruner)
        trial = study.ask()
        values, decisions = [], []
        for step in range(5):
            value = float("nan") if rng.random() < 0.1 else round(rng.uniform(0, 1), 3)
            trial.report(value, 10 * (step + 1))
            values.append("nan" if math.isnan(value) else value)
            decisions.append(bool(trial.should_prune()))
        cases.append({
            "direction": direction, "settings": {**settings, "percentile": 25.0 if index % 5 == 4 else 50.0},
            "trials": shown(trials), "values": values, "decisions": decisions,
        })
    return cases


def learning_rates():
    """Rates, smoothed losses and suggestions of Lightning's finder."""
    rates = []
    for mode, scheduler in [("exponential", _ExponentialLR), ("linear", _LinearLR)]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-6)
        schedule = scheduler(optimizer, 0.5, 20)
        lrs = []
        for _ in range(20):
            lrs.append(schedule.lr[0])
            optimizer.step()
            schedule.step()
        rates.append({"mode": mode, "min_lr": 1e-6, "max_lr": 0.5, "num_training": 20, "lrs": lrs})
    curves = []
    for index in range(30):
        n = rng.randint(5, 50)
        lrs = [1e-7 * (1e7 ** (step / n)) for step in range(n)]
        bottom = rng.uniform(0.4, 0.95)
        loss = lambda x: 2.0 - 1.2 / (1 + math.exp(-(x - bottom + 0.3) * 14)) + (max(0, x - bottom) * 12) ** 2
        losses = [loss(step / n) + rng.gauss(0, 0.05) for step in range(n)]
        if index % 6 == 5:
            losses[rng.randrange(n)] = float("nan")
        callback = _LRCallback(n, 4.0)
        trainer = types.SimpleNamespace(
            fit_loop=types.SimpleNamespace(batch_idx=0), accumulate_grad_batches=1, global_step=0, should_stop=False,
            strategy=types.SimpleNamespace(broadcast=lambda value: value),
        )
        for value in losses:
            trainer.global_step += 1
            callback.on_train_batch_end(trainer, None, torch.tensor(value, dtype=torch.float64), None, 0)
            if trainer.should_stop:
                break
        smoothed = callback.losses
        finder = _LRFinder("exponential", lrs[0], lrs[-1], n)
        skips = [(10, 1), (0, 0 + 1), (3, 2)][index % 3]
        finder.results = {"lr": lrs[:len(smoothed)], "loss": smoothed}
        number = lambda value: "nan" if math.isnan(value) else value
        curves.append({
            "lrs": lrs, "raw": [number(value) for value in losses], "smoothed": [number(value) for value in smoothed],
            "stopped": bool(trainer.should_stop), "skip": skips, "suggestion": finder.suggestion(*skips),
        })
    return {"rates": rates, "curves": curves}


def rounded(value):
    if isinstance(value, float):
        return float(f"{value:.11g}")
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part) for part in value]
    return value


golden = {
    "weights": {str(n): default_weights(n).tolist() for n in [0, 1, 24, 25, 26, 27, 60]},
    "gamma": [default_gamma(n) for n in range(300)],
    "parzen": parzen(),
    "splits": splits(),
    "suggestions": suggestions(),
    "pruning": pruning(),
    "learning_rates": learning_rates(),
}
with open(os.path.join(os.path.dirname(__file__), "search.json"), "w") as file:
    json.dump(rounded(golden), file, separators=(",", ":"))
    file.write("\n")
