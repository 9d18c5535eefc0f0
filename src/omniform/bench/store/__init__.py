"""Where measurements are kept: SQLite in a file, or PostgreSQL."""
