"""Models as files that ship, and the one door to whatever answers."""
