"""Many runs at once: robots x seeds x settings, on one machine or a Ray cluster."""
