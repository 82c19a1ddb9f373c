"""One batch on its way: prompts, rollouts, scores, gradients, evaluation, what it cost."""
