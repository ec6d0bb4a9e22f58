"""Modalities: one file or folder per kind of data, each with a `modality`.

The contract is in `limbeck.data.modality`.
"""
