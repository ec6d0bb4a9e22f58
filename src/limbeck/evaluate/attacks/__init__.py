"""Small changes of pictures that make a model go wrong, and whether they can be trusted to.

Attacks with gradients are made on a twin in torch; what they find is shown to what ships.
"""
