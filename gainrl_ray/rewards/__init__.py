"""Completions to rewards: graders, and the killable processes that run them."""
