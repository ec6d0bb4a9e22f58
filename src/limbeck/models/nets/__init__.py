"""Reference nets: each file needs only torch, and is copied unchanged to the student's folder."""
