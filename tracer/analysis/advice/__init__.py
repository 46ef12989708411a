"""What to do about a stall, and what to change so that it does not come back."""
