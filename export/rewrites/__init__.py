"""Changes to finished graphs: half precision, pair-safe codes, outliers."""
