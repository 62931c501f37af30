"""Traffic that means no good, or is badly made: what the daemon must answer without harm."""
