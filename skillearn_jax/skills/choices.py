"""Floor 3: options of a skill that are one of a few words."""

from typing import Any, get_args

from skillearn_jax.errors import InputError


def check_choice(name: str, value: str, words: Any) -> None:
    """Raises `InputError` unless an option is one of the words of a `Literal`.

    Args:
        name: of the option.
        value: given.
        words: the `Literal`, from which configs have the same words.
    """
    if value not in get_args(words):
        allowed = ", ".join(map(repr, get_args(words)))
        raise InputError(f"{name}={value!r}; it must be one of {allowed}")
