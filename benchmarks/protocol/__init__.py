"""One protocol for every system that is compared with ours; benchmarks/peers/README.md describes it."""
