"""Floor 4: numbers in sentences."""


def counted(number: int, noun: str) -> str:
    """Returns a number of things: `1 epoch`, `1,200 epochs`.

    Args:
        number: of them.
        noun: for one of them; several have an "s" more.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
