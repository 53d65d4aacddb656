"""The DNA family: blocks learn from a teacher's features (DNA, DNA+) or with a teacher that learns too (DNA++)."""
