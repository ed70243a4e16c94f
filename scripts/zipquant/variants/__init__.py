"""One variant: prepared, searched, built."""
