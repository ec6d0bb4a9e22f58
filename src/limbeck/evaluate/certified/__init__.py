"""What no attack can break: bounds on a model's answers that hold for every change of a size."""
