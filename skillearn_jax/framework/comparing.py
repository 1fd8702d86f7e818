"""Floor 2: one program's hypergradient under every adjoint and number type."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from skillearn_jax.errors import InputError, check_choice
from skillearn_jax.framework import gains
from skillearn_jax.framework.checking import suspicion
from skillearn_jax.framework.variant import under
from skillearn_jax.hypergrad import (
    Adjoint,
    Autodiff,
    Exact,
    FiniteDifference,
    FirstOrder,
)
from skillearn_jax.hypergrad.refusals import check_adjoint, check_number
from skillearn_jax.tree import cast_floats
from skillearn_jax.types import PyTree

if TYPE_CHECKING:
    from skillearn_jax.framework.program import Program
    from skillearn_jax.framework.state import Batches, State

T = TypeVar("T")

DTYPES = ("float64", "float32", "bfloat16")
RADII = tuple(10.0**power for power in range(-6, 1))
ADJOINTS = (
    Exact(),
    FiniteDifference(0.01),
    FirstOrder("lookahead"),
    FirstOrder("current"),
)
TOTAL = "total"
"""The name of a row's stage that stands for the whole gradient of a set."""


class CompareRow(NamedTuple):
    """The gradient of one supporting set, or the part of it through one stage.

    Attributes:
        adjoint: its `repr`.
        radius: of a finite difference; `None` for other adjoints.
        dtype: that parameters, states and batches were cast to.
        supporting: the set.
        stage: through which the part flows, `"validation"` for the direct term, or
            `"total"`.
        norm: Euclidean norm of the reference.
        rel_error: `||g - reference|| / ||reference||`; NaN where the reference is zero
            and g is not.
        cosine: of the angle between the two; NaN where either is zero.
    """

    adjoint: str
    radius: float | None
    dtype: str
    supporting: str
    stage: str
    norm: float
    rel_error: float
    cosine: float


class CostRow(NamedTuple):
    """What one hypergradient costs.

    Attributes:
        adjoint: its `repr`.
        dtype: as in `CompareRow`.
        step_s: median seconds of a call.
        compile_s: seconds of its compilation, or of reading it from a cache.
        peak_bytes: memory that the compiled program holds beside its arguments, at most.
    """

    adjoint: str
    dtype: str
    step_s: float
    compile_s: float
    peak_bytes: int


class CompareReport(NamedTuple):
    """A comparison; `print(report)` shows it as tables.

    Attributes:
        rows: accuracy, one for each adjoint, number type, set and stage; none of a set
            that the adjoint leaves without a path to the objective.
        costs: one for each adjoint and number type; of the sets that have rows.
        warnings: a line for each set whose gradient is zero or not finite, for each
            stage that passes (almost) no response term, for random numbers that are
            others in another number type, and for each adjoint that leaves a set without
            a path to the objective.
        reference: what `rel_error` and `cosine` are against.
    """

    rows: tuple[CompareRow, ...]
    costs: tuple[CostRow, ...]
    warnings: tuple[str, ...]
    reference: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists and dicts, for JSON; NaN becomes `None`."""
        return {
            "reference": self.reference,
            "rows": [_plain(row) for row in self.rows],
            "costs": [_plain(row) for row in self.costs],
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        totals = [row for row in self.rows if row.stage == TOTAL]
        wide = max((len(row.adjoint) for row in totals), default=len("adjoint"))
        broad = max([12, *(len(row.supporting) for row in totals)])
        lines = [
            f"against {self.reference}",
            f"{'adjoint':<{wide}}  {'numbers':<9} {'set':<{broad}} {'norm':>9} "
            f"{'rel. error':>10}  {'cosine':>9}",
        ]
        lines.append("-" * len(lines[1]))
        lines += [
            f"{row.adjoint:<{wide}}  {row.dtype:<9} {row.supporting:<{broad}} "
            f"{row.norm:>9.2e} {row.rel_error:>10.1e}  {row.cosine:>9.6f}"
            for row in totals
        ]
        lines += [
            "",
            f"{'adjoint':<{wide}}  {'numbers':<9} {'call':>9} {'compile':>9} "
            f"{'memory':>9}",
        ]
        lines.append("-" * len(lines[-1]))
        lines += [
            f"{row.adjoint:<{wide}}  {row.dtype:<9} {row.step_s * 1e3:>6.1f} ms "
            f"{row.compile_s:>7.1f} s {row.peak_bytes / 2**20:>5.1f} MiB"
            for row in self.costs
        ]
        return "\n".join((*lines, *(f"! {line}" for line in self.warnings)))


def compare(
    program: Program,
    state: State,
    batches: Batches,
    *,
    adjoints: Sequence[Adjoint] = ADJOINTS,
    radii: Sequence[float] = RADII,
    dtypes: Sequence[str] = DTYPES,
    repeats: int = 5,
    progress: Callable[[str], None] = lambda line: None,
) -> CompareReport:
    """Returns how right each adjoint is, in which number type, and what it costs.

    The reference is plain reverse-mode autodiff through the whole composition in
    float64. Every adjoint replaces those of all stages. Arrays are cast, parameters,
    optimiser states, model states and batches alike; what a loss draws at random in
    another number type is another draw, so compare programs whose losses draw none.
    Matrix products are taken at the highest precision that the device has.

    Args:
        program: with a validation stage and without a device axis.
        state: from `init` or `step`; where the gradient is taken.
        batches: as for `step`.
        adjoints: to compare, in every number type; timed.
        radii: further finite differences, in every number type; not timed.
        dtypes: of `"float64"`, `"float32"`, `"bfloat16"`, `"float16"`.
        repeats: timed calls of each.
        progress: is told what happens.

    Raises:
        InputError: for a program with a device axis, one value where a tuple is wanted, an
            unknown number type, an adjoint or a radius that is none, or nothing to compare.

    Cost: for each number type one compilation an adjoint, and one for all radii.
    """
    if program.axis_name is not None:
        raise InputError(
            f"compare a program without axis_name={program.axis_name!r}: "
            "it needs no devices"
        )
    adjoints = _listed("adjoints", adjoints)
    radii = _listed("radii", radii)
    dtypes = _listed("dtypes", dtypes)
    for dtype in dtypes:
        check_choice("dtypes", dtype, (*DTYPES, "float16"))
    for adjoint in adjoints:
        check_adjoint("compare", adjoint)
    for wanted in radii:
        check_number("radii", wanted)
    if not dtypes or not (adjoints or radii):
        raise InputError(
            "nothing to compare: give one of dtypes, and one of adjoints or of radii"
        )
    progress("reference: autodiff in float64")
    with _computing_in("float64"):
        truth = program.with_adjoint(Autodiff())
        reference, _ = _measured(truth, cast_floats((state, batches), "float64"), 0)
    rows: list[CompareRow] = []
    refused: dict[str, None] = {}
    costs: list[CostRow] = []
    for dtype in dtypes:
        with _computing_in(dtype):
            cast = cast_floats((state, batches), dtype)
            for adjoint in adjoints:
                progress(f"{adjoint!r} in {dtype}")
                variant, left_out = under(program, adjoint)
                refused |= dict.fromkeys(left_out)
                if variant is None:
                    continue
                found, cost = _measured(variant, cast, repeats)
                radius = getattr(adjoint, "radius", None)
                rows += _rows(repr(adjoint), radius, dtype, found, reference)
                costs.append(CostRow(repr(adjoint), dtype, *cost))
            if radii:
                progress(f"finite differences in {dtype}")
            for radius, found in _swept(program, cast, radii):
                name = repr(FiniteDifference(radius))
                if name not in {row.adjoint for row in rows if row.dtype == dtype}:
                    rows += _rows(name, radius, dtype, found, reference)
    return CompareReport(
        tuple(rows),
        tuple(costs),
        (
            *_suspicions(reference),
            *gains.warnings(program, state, batches),
            *_other_draws(program, state, batches, dtypes),
            *refused,
        ),
        "plain autodiff in float64",
    )


def _listed(name: str, given: Iterable[T]) -> tuple[T, ...]:
    """Returns an argument of several values as a tuple; refuses one value by itself."""
    # A text would be read letter by letter.
    if not isinstance(given, str):
        with contextlib.suppress(TypeError):  # as of a number or an array of no axis
            return tuple(given)
    raise InputError(f"{name}={given!r}; it must be a tuple, of one too: ({given!r},)")


Terms = Mapping[str, Mapping[str, np.ndarray]]
"""`{supporting set: {stage: gradient, flat}}`, the whole one under `TOTAL`."""


def _suspicions(reference: Terms) -> list[str]:
    """Returns a line for each set whose gradient by plain autodiff is zero or not finite."""
    found = {
        name: suspicion(float(np.linalg.norm(parts[TOTAL])), 0.0)
        for name, parts in reference.items()
    }
    return [
        f"the gradient of {name!r} is {text}" for name, text in found.items() if text
    ]


def _other_draws(
    program: Program, state: State, batches: Batches, dtypes: Sequence[str]
) -> list[str]:
    """Returns a line if other number types than the reference's draw other numbers."""
    narrow = [dtype for dtype in dtypes if dtype != "float64"]
    if not narrow:
        return []
    if not _draws(jax.make_jaxpr(program.objective)(state, batches).jaxpr):
        return []
    return [
        f"a loss draws random numbers, and may draw others in {', '.join(narrow)} than in "
        "float64: errors there may be those of another draw. Compare without dropout or noise"
    ]


def _draws(jaxpr: core.Jaxpr) -> bool:
    """Returns whether random numbers are drawn; splitting and folding keys draws none."""
    return any(
        eqn.primitive.name in ("random_bits", "random_gamma")
        or any(map(_draws, core.jaxprs_in_params(eqn.params)))
        for eqn in jaxpr.eqns
    )


def _terms(program: Program, state: State, batches: Batches) -> PyTree:
    grads, info = program.hypergrad(state, batches)
    parts = {
        name: {s: of[name] for s, of in info.terms.items() if name in of}
        for name in grads
    }
    return {name: {TOTAL: grads[name], **parts[name]} for name in grads}


def _flat(terms: PyTree) -> Terms:
    """Returns the gradients as float64 vectors: a comparison adds no error."""
    return {
        name: {
            stage: np.concatenate(
                [
                    np.zeros(0),  # of a set without arrays
                    *(np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)),
                ]
            )
            for stage, tree in parts.items()
        }
        for name, parts in jax.device_get(terms).items()
    }


def _measured(
    program: Program, at: tuple[State, Batches], repeats: int
) -> tuple[Terms, tuple[float, float, int]]:
    """Returns the terms, and `(step_s, compile_s, peak_bytes)`."""
    start = time.perf_counter()
    compiled = (
        jax.jit(lambda state, batches: _terms(program, state, batches))
        .lower(*at)
        .compile()
    )
    compile_s = time.perf_counter() - start
    terms = jax.block_until_ready(compiled(*at))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*at))
        seconds.append(time.perf_counter() - start)
    memory = compiled.memory_analysis()
    peak = 0 if memory is None else memory.temp_size_in_bytes
    step_s = statistics.median(seconds) if seconds else math.nan
    return _flat(terms), (step_s, compile_s, peak)


def _swept(
    program: Program, at: tuple[State, Batches], radii: Sequence[float]
) -> Iterator[tuple[float, Terms]]:
    """Yields the terms by finite differences, compiled once for all radii."""
    call = jax.jit(
        lambda radius, state, batches: _terms(
            program.with_adjoint(FiniteDifference(radius)), state, batches
        )
    )
    for radius in radii:
        yield radius, _flat(call(jnp.asarray(radius), *at))


def _rows(
    adjoint: str, radius: float | None, dtype: str, found: Terms, reference: Terms
) -> list[CompareRow]:
    rows = []
    for name in found:  # not what an adjoint leaves without a path
        for stage, want in reference[name].items():
            got = found[name][stage]
            norm, size = np.linalg.norm(want), np.linalg.norm(got)
            error = np.linalg.norm(got - want)
            with np.errstate(divide="ignore", invalid="ignore"):
                cosine = np.divide(got @ want, norm * size)
                relative = 0.0 if error == 0 else np.divide(error, norm)
            rows.append(
                CompareRow(
                    adjoint,
                    radius,
                    dtype,
                    name,
                    stage,
                    float(norm),
                    float(relative) if math.isfinite(relative) else math.nan,
                    float(cosine),
                )
            )
    return rows


@contextlib.contextmanager
def _computing_in(dtype: str) -> Iterator[None]:
    """Lets float64 be float64, and float32 products be no less."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield


def _plain(row: NamedTuple) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row._asdict().items()
    }
