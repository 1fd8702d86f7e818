"""Values of unknown size, in messages."""

import reprlib
from typing import Any

_MAX_LENGTH = 120

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def shown(value: Any) -> str:
    """Returns a value for a message: on one line, and cut where it is long or deep."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number too long to be shown"
    # Each part of a value is cut by itself: together they may still be long.
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."
