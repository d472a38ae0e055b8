"""Who may ask, and how much: keys, limits, and the middleware in front of every route."""
