"""Pre-training methods: each module offers `Method(nn.Module)` with `forward(batch) -> Losses`, and `WEIGHTS` with the same keys."""
