"""Prints the instruction set levels below the active one, highest first: `make test` repeats tests there."""

from engine.kernels.vector.levels import NONE, active, available


def main() -> None:
    """One line."""
    here = active().name
    lower = () if here == NONE else (*available()[: available().index(here)][::-1], NONE)
    print(*lower)


if __name__ == "__main__":
    main()
