"""What a run shows: progress, metrics, plots."""
