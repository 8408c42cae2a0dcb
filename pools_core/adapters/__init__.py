"""Faces of a pool for programs that expect something else; each imports its library only when used."""
