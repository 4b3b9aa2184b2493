"""What `vintix-fast bench` measures, and the scripts that made the figures in results/; installed as
vintix_fast.benchmarks."""
