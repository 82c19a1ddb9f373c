"""What every study shares: runs, ledger, predictions on record, observations, reports, workers."""
