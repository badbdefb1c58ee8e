"""What a node is and does on its own machine."""
