"""One protocol for every system that is measured beside ours; benchmarks/peers/README.md describes it."""
