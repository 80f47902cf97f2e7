"""Set-up of a checkout: standard library and Python 3.9 syntax only; the project never imports it."""
