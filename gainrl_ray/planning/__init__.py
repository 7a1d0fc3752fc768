"""What a run would need and take on a cluster that is not at hand: memory, seconds of a step, the split of GPUs."""
