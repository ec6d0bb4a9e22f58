"""Low-rank factorisation: layer selection, rank selection and the factor matrices."""
