"""The addresses of a server, one file for each kind."""
