"""What makes readable text of recognised words."""
