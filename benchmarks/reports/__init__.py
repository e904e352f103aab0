"""Results as JSON, tables, plots and pages, with the signature of each figure."""
