"""JEPA world models: encoders, predictors, objectives, training, costs, critic, and the trajectory store."""
