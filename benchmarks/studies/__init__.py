"""Subcommands that answer one question each."""
