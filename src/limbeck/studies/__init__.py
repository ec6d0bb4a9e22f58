"""The field's claims, each an experiment: one file a study."""
