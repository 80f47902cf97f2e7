"""Stage 5. A model folder and documents in, predictions out: in a process, behind a port, and over a whole
table.
"""
