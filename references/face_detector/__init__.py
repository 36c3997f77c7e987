"""How the shipped face detector was made."""
