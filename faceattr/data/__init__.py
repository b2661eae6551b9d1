"""Data sets, read from folders the caller names; nothing is downloaded."""
