"""Group fairness (demographic parity, equalised odds), and recall of rare classes."""
