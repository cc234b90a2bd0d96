"""Downstream evaluations: each module offers `fit(encoder, store, ...) -> head` and `score(encoder, head, store) -> records`."""
