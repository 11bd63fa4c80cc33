"""`python -m bilevel_distillation` is `bilevel-distill`."""

from ._app import main

main()
