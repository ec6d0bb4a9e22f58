"""Model loading: the `teacher` and `student` sections of a recipe as modules."""
