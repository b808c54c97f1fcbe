"""From a NetParameter to pure functions."""
