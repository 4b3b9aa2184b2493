"""What a run shows: progress, metrics, plots, and the page that tells of it afterwards."""
