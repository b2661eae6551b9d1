"""Faces and their attributes from any photo, on operators of their own."""

__version__ = "0.1.0"
