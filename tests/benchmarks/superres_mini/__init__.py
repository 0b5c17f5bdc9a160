"""Super-resolution in miniature, as `fm superres` found it."""
