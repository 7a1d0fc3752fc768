"""The actors of a run, and all that touches Ray, vLLM or DeepSpeed."""
