"""Building blocks of pages: formatted numbers, tables, and charts as self-contained SVG.

The charts map numbers to SVG markup with escaped labels; colours are CSS classes, so that charts
follow light and dark mode. Roles differ in shape and dash too, so that no chart needs colour.
"""
