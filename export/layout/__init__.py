"""Layout tables (engine.bundle.layout): read from the nodes of a graph that this package built."""
