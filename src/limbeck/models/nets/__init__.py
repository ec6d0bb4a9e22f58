"""The reference nets: each file needs torch alone, and goes into the student's folder as it is."""
