"""How a run is seen: logs and metrics."""
