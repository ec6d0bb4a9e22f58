"""Corruption robustness: noise, blur, jpeg; typos, dropped words; five severities."""
