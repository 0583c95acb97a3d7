"""Robot units to normalised actions to tokens, and back."""
