"""Clients of the HTTP service: many at once, impatient, slow or endless, and what they cost its process."""
