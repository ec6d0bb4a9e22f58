"""Models: what a recipe's `teacher` and `student` say, turned into modules."""
