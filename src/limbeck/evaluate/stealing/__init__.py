"""How much of a model can be had by asking it, and what holds a thief up."""
