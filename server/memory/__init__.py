"""The memory that a server may use, what fits into it, and which sizes it therefore has."""
