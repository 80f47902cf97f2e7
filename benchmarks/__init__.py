"""Measurements: ours beside each peer, in one run on one machine, told as a ratio. A number alone says more of the machine."""
