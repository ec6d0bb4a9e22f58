"""What is made smaller in an exported file: its weights, and the record of it."""
