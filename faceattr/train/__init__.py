"""Training loops; the scripts in `training/` are their command lines."""
