"""``python -m epifoundation``, as ``torchrun -m`` starts it."""

from .cli import main

main()
