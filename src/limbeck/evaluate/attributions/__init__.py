"""Where in an input an answer comes from, and whether two models look at the same places."""
