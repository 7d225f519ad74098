"""Whole networks and their published sizes."""
