"""The run: backbones x tasks x seeds as jobs, whose identities are known before anything is computed."""
