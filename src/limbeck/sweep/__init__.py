"""Choose settings by what they cost: many runs of a recipe, a Pareto front, and a budget.

Every trial is an ordinary run in `trials/<number>/`. Validation accuracy is maximised; size,
latency and whatever else is asked are minimised, as measured on the exported file on this machine
(hardware in the loop). `plan.py` checks what is asked, `work.py` does trials, `study.py` keeps the
book of them in SQLite, `conclude.py` draws the front and picks what fits a budget.
"""
