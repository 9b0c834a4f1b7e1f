"""Backends that are right, of different kinds."""
