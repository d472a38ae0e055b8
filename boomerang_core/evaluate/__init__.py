"""Measures how far a size is from its teacher."""
