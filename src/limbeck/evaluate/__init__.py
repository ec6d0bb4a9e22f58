"""Evaluations of the exported student against its teacher, one file each, with typed results."""
