"""Data: what a recipe's `data` says, turned into batches; and the store of a teacher's answers."""
