"""Utterances and their features."""
