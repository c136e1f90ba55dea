"""What was done, for people: text, JSON and a page."""
