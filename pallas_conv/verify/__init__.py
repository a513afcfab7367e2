"""What results and speeds are held against: a float64 oracle, an error bound, a timer. For doctor, benchmarks and tests."""
