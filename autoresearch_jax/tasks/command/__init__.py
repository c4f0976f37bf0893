"""A task of any command with a number: the asset in the sandbox, an evaluator of the user's."""
