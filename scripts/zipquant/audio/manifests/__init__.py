"""Kinds of manifests, a module each; `kinds` finds out which one a file or folder is."""
