"""`python -m bilevel_distillation` is `bilevel-distill`."""

from ._main import main

main()
