"""How accurate each variant is, and which is the best."""
