"""What all networks share: linear layers and row-wise steps."""
