"""A queue of trainings on one cluster: its table, who may start what, and a simulation of the same rules."""
