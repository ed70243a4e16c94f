"""What runs on the board too; the bundle copies this folder whole."""
