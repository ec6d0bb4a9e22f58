"""Groups beside each other, and rare classes beside frequent ones."""
