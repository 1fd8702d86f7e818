"""What one call costs: compilation, time, memory, arithmetic."""

import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from skillearn_jax.tracing import uncollected


def use_cache(folder: str) -> None:
    """Reads and writes a compilation cache; an empty name leaves all as it is."""
    if folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def use_default_cache() -> None:
    """Reads and writes the launcher's compilation cache, unless JAX was told another."""
    if jax.config.jax_compilation_cache_dir is None:
        cache = pathlib.Path.home() / ".cache" / "skillearn_jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))


def measure(
    call: Callable[..., Any], arguments: tuple[Any, ...], repeats: int
) -> dict[str, Any]:
    """Returns times, memory and arithmetic of a call, after one that does not count."""
    start = time.perf_counter()
    with uncollected():  # as a run traces
        lowered = jax.jit(call).lower(*arguments)
    trace_s = time.perf_counter() - start
    start, start_cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    compile_cpu_s = time.process_time() - start_cpu
    jax.block_until_ready(compiled(*arguments))
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(compiled(*arguments))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    memory, flops = compiled.memory_analysis(), compiled.cost_analysis().get("flops")
    step_s = statistics.median(wall)
    return {
        "trace_s": round(trace_s, 2),
        "compile_s": round(compile_s, 2),
        "compile_cpu_s": round(compile_cpu_s, 2),
        "step_s": round(step_s, 4),
        "cpu_s": round(statistics.median(cpu), 4),
        "peak_bytes": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        "flops": flops,
        "flops_per_s": flops and round(flops / step_s),
    }
