"""Noise on the integer grid: floats never carry the guarantee.

A vector is clipped, rotated, scaled and rounded to integers (`encoder`), gets a share of
discrete noise (`table`, `layers`), and is accounted for by its Renyi divergences (`renyi`).
"""
