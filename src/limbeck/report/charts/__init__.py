"""The charts of the report, one file each: from numbers to SVG markup with escaped labels.

All are 360 units wide, so that text of 11 to 13 units has as many pixels on a phone; on a wide
screen several stand side by side. Colours come from the page (`currentColor`, CSS variables), so
that charts follow light and dark mode. Roles differ in shape and dash too: the teacher square and
dashed, the student round and solid, the baseline a diamond and dotted.
"""
