"""Something for the test of tests.fuzz.lines to count."""


def choose(first: bool) -> int:
    """One of two lines runs."""
    if first:
        return 1
    return 2
