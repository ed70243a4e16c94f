"""Rewrites of an encoder's graph into the form that the RKNN compiler makes few layers of."""
