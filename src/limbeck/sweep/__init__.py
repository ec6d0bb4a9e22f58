"""Hyperparameter sweep: many runs of a recipe, multi-objective search, a Pareto front and a budget.

Every trial is an ordinary run in `trials/<number>/`. The task's score on validation is optimised;
size, latency and other requested costs are minimised, as measured on the exported file on this
machine (hardware in the loop). `plan.py` validates the request, `run.py` runs trials, `study.py`
stores them in SQLite with Optuna, `conclude.py` computes the front and selects the trial that meets
a budget.
"""
