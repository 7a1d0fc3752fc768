"""The mathematics: randomness, angles, advantages, losses and batches; numpy and torch only."""
