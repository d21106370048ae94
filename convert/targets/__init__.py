"""Writing converted weights: layouts, files that appear atomically, verification, upload."""
