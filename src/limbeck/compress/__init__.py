"""Making a model smaller: model in, model out, with a record of what changed."""
