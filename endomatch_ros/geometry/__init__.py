"""Camera and two-view geometry: pure functions on float64 arrays."""
