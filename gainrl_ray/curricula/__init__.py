"""Which problems a step is trained on: pure strategies behind one interface, and the ledger of what was shown."""
