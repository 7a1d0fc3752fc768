"""Datasets: rows to problems, problems to prompts, scores to an index on disk."""
