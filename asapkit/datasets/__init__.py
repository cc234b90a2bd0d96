"""Readers: each module offers `scans(root) -> Iterator[Scan]` for one original on-disk layout, with licence and source in its docstring."""
