"""The DNA family: blocks learn from a teacher's features (DNA, DNA+) or together with a teacher (DNA++)."""
