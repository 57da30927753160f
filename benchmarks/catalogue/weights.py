"""Weights of the training objectives that recipes share."""

VARIANCE_COVARIANCE = {
    "prediction": 1.0,
    "variance": 16.0,
    "covariance": 8.0,
    "temporal_similarity": 12.0,
    "inverse_dynamics": 1.0,
}
CONTRAST = {"action_contrast": 1.0, "prediction": 0.5, "variance": 4.0, "covariance": 2.0}
CONTRAST_ARGS = {"num_shuffled": 4, "temperature": 0.002}
