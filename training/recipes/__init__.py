"""One short file per recipe; each defines RECIPE."""
