"""Studies: published claims on distillation and compression, each measured and judged by a rule.

A study is one YAML file in `catalogue/`: the claim, its source, the arms that are compared and the
rule that decides. What an arm measures is a function of `measures/`, by name.
"""

from limbeck.studies.judge import Check, Verdict
from limbeck.studies.run import Outcome, Record, run
from limbeck.studies.study import Expectation, Study, load, names

__all__ = [
    "Check",
    "Expectation",
    "Outcome",
    "Record",
    "Study",
    "Verdict",
    "load",
    "names",
    "run",
]
