"""The DARTS notation of a genotype: parsed as data, never evaluated."""

import ast
import warnings
from typing import Any, TypeGuard

from skillearn_jax.errors import InputError
from skillearn_jax.nas.shown import shown

_FIELDS = {
    "normal": "normal",
    "normal_concat": "normal_concat",
    "reduce": "reduction",
    "reduce_concat": "reduction_concat",
}
_MAX_LENGTH = 10_000
_MAX_STATES = 1_000


def parse_genotype_text(text: str) -> dict[str, Any]:
    """Returns the fields of a genotype, unchecked, from its DARTS notation.

    Args:
        text: `Genotype(normal=[..], normal_concat=.., reduce=[..], reduce_concat=..)`,
            where a concat is a list of states or `range(start, stop)`.

    Raises:
        InputError: for anything else; the message names the part.
    """
    if not isinstance(text, str) or len(text) > _MAX_LENGTH:
        raise InputError(f"a genotype is text of at most {_MAX_LENGTH} characters")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's, of its own syntax
            call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"not a genotype: {shown(text)}{_place(error)}") from None
    if not _is_call_of(call, "Genotype") or call.args:
        raise InputError(f"expected Genotype(normal=.., ..), got {shown(text)}")
    names = [str(keyword.arg) for keyword in call.keywords]
    if sorted(names) != sorted(_FIELDS):
        raise InputError(
            f"a genotype has the fields {list(_FIELDS)}, got {shown(names)}"
        )
    values = [keyword.value for keyword in call.keywords]
    return {
        _FIELDS[name]: _parse_value(name, value)
        for name, value in zip(names, values, strict=True)
    }


def _parse_value(name: str, node: ast.expr) -> Any:
    """Returns the literal, or the states of the range, that a field holds."""
    try:
        if name.endswith("_concat") and _is_call_of(node, "range"):
            if node.keywords or len(node.args) != 2:
                raise ValueError
            start, stop = (ast.literal_eval(arg) for arg in node.args)
            if type(start) is not int or type(stop) is not int:
                raise ValueError
            if not 0 < stop - start <= _MAX_STATES:
                raise ValueError
            return tuple(range(start, stop))
        value = ast.literal_eval(node)
        if not isinstance(value, list | tuple) or not value:
            raise ValueError
        return value
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise InputError(
            f"{name} must be a list of literals"
            f"{' or range(start, stop)' if name.endswith('_concat') else ''}, got "
            f"{_source(node)}"
        ) from None


def _place(error: Exception) -> str:
    """Returns where a text stops being Python and why, where that is known."""
    if not isinstance(error, SyntaxError) or error.lineno is None:
        return ""
    return f", line {error.lineno}, column {error.offset}: {error.msg}"


def _is_call_of(node: ast.expr, name: str) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == name
    )


def _source(node: ast.expr) -> str:
    """Returns an expression for a message, cut where it is long."""
    try:
        return shown(ast.unparse(node))
    except (RecursionError, ValueError):
        return "what is too deep or too long to be shown"
