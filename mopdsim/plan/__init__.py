"""The planner: the question, candidates and what they come to, the search, and what to make of its result.

Layers, downward: `plan` reads `finalists` with `reasons`, `information`, `tipping`, `portfolio`; these read `explore`;
it reads `evaluation`, that puts together the pieces of a `stock`, and that `candidate` and `question`. `words` is the
home of every plain phrase. Leaves out: the command (`mopdsim.cli.plan_command`), the app.
"""
