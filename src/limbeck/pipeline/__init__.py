"""From a recipe to a student that ships."""
