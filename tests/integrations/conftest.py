"""Tests of the integrations; `together.py` is a script that they start."""

collect_ignore = ["together.py"]
