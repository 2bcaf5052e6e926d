"""The three phases of training: pre-train, joint, refine."""
