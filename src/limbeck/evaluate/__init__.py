"""Questions asked of what ships: one file a question, typed answers."""
