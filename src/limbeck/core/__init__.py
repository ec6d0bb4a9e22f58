"""Shared foundations: files, fingerprints, registries, imports, user code and numbers."""
