"""What `vintix-fast bench` measures, and the scripts that made the figures in RESULTS.md; installed as
vintix_fast.benchmarks."""
