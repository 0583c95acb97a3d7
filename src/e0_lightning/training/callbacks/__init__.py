"""Lightning callbacks for training and prediction."""
