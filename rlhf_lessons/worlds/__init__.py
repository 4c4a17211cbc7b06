"""Where boards, prompts, texts and truths come from. No torch."""
