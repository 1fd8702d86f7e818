"""Human learning skills as differentiable multilevel optimisation."""
