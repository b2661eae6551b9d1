"""An index of photo collections and a search over it: `faceattr index`, `search` and `serve`."""
