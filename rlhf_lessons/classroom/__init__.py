"""What a learner touches: exercises, checks, grading, widgets."""
