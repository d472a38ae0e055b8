"""The server's process: how it listens, loads, drains and ends, and what becomes of its engine."""
