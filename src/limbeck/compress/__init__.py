"""Model compression: pruning, quantisation and low-rank factorisation."""
