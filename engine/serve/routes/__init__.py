"""What each path of the service answers, a file for each group of endpoints."""
