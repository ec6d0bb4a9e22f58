"""Names of the inputs, outputs and axes of a causal language model's file, as in optimum."""

IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
PAST, PRESENT = "past_key_values.", "present."
"""The beginnings of the names of the key-value cache's inputs and outputs."""
TOKENS, EARLIER = "tokens", "past"
"""The axes of the given tokens, and of those whose keys and values the cache has."""
