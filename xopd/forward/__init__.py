"""The forward pass over responses that share prompts, for learner and teacher."""
