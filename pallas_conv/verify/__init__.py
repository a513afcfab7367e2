"""Tools that judge results and speeds: a float64 oracle, an error bound, a timer. For doctor, benchmarks and tests."""
