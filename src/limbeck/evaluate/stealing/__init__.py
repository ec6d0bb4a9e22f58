"""Model extraction attacks on the student, and defences against them."""
