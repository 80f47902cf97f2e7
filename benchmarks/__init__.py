"""Measurements: Distributary beside a peer, in one run on one machine, as a ratio.

A number alone says more about the machine than about the code.
"""
