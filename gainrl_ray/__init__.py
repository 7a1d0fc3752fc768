"""Reinforcement fine-tuning of language models (GRPO) under a data curriculum, as one Ray application."""

__version__ = "0.1.0"
