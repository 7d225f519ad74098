"""Implicit filters: small networks that map positions to the taps of a convolution of any size."""
