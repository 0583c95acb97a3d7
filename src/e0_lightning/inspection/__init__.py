"""What demonstration files hold, what of it would hurt training, and configs that train on it."""
