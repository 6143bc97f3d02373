"""What a run keeps: its files, its ledger's history, its lease and its status."""
