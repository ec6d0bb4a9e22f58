"""The sizes within a model: channels, heads and layers, found, chosen and cut."""
