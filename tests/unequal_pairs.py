"""Pairs for tests of what a batch does."""

# Responses of very unequal lengths, so that a mean of the parts' means is not the batch's mean.
PAIRS = [
    ("a", "b .", "c c c c c c ."),
    ("c a a", "d", "b b ."),
    ("", "a b a b a b a .", "d ."),
    ("b b", "c", "a"),
    ("d", "d d", "a a a a a"),
    ("c", "d .", "b"),
]
