"""Translation models: data, model, optimisers, loop."""
