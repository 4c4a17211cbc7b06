"""What changes weights: one loop per algorithm."""
